"""Tests of ledger/verify/ on real servers."""
