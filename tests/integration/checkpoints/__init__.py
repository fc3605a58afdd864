"""Tests of ledger/checkpoints/ on real servers."""
