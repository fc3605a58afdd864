"""Tests of ledger/drivers/ on real servers."""
