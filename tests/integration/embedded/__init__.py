"""Tests of ledger/embedded/ on real servers."""
