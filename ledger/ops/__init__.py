"""For operators: status, doctor, metrics."""
