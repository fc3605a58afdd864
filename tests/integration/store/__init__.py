"""Tests of ledger/store/ on real servers."""
