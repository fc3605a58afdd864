"""Tests of ledger/stream/ on real servers."""
