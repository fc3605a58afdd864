"""The measurements: every figure against what the servers can do, and against peers. `python -m bench --help`."""
