"""Servers and processes that fail, pause, or lose connections: nothing is lost, doubled or misordered."""
