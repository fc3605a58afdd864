"""Signing the ledger: keys, the signer, publishers, proofs."""
