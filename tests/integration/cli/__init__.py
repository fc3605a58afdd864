"""Tests of ledger/cli/ on real servers."""
