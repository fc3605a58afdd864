"""A whole ledger checked against itself, against its checkpoints, and against the schema that protects it."""
