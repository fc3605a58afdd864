"""The command line: the frame of all commands, and the commands. `main` is the console script `auditledger`."""

from ledger.cli.app import main

__all__ = ["main"]
