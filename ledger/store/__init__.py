"""The ledger in Postgres: appends, reads, conditions, the ledger's own actions, the tree. Plans, and group commit."""
