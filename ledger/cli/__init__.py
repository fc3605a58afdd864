"""The command line. `main` is the console script `auditledger`; design.md's table has the commands."""

from ledger.cli.app import main

__all__ = ["main"]
