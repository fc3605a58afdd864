"""The schema: migrations and their journal, roles and grants."""
