"""Tests without a server: bytes, trees, proofs, keys."""
