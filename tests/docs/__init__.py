"""What README, docs/, examples and the package promise, run as they stand."""
