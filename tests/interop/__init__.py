"""Verifiers and witnesses of other authors, on our logs."""
