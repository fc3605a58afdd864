"""Tests of ledger/testing/ on real servers."""
