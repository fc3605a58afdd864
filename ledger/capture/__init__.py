"""Events that come into a ledger by themselves: the outbox, its sealer, and what feeds it."""
