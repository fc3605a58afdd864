"""Tests of ledger/ops/ on real servers."""
