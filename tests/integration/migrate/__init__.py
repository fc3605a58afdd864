"""Tests of ledger/migrate/ on real servers."""
