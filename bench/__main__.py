"""`python -m bench`. Imports nothing beforehand: the processes that are spawned import this module too."""

import sys

if __name__ == "__main__":
    from bench.run import main

    sys.exit(main())
