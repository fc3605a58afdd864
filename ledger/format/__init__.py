"""The hashed bytes: made, read back, and what they may hold (docs/format.md). Pure."""
