"""Tests of ledger/projection/ on real servers."""
