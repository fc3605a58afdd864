"""What leaves the database: the bundle and the public log, written and checked."""
