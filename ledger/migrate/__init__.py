"""The database's schema: migrations and their journal, roles and grants."""
