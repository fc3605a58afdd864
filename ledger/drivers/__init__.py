"""Runs plans on psycopg and redis: connections, pools, and servers that fall silent."""
