"""Tests of ledger/export/ on real servers."""
