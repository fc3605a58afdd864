"""The ledger's Redis stream: wire form, relay, readers, consumer groups, salvage."""
