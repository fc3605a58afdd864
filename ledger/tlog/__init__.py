"""Transparency-log formats and arithmetic: RFC 6962 and C2SP. Knows no ledger."""
