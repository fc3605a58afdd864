"""What operators look at: status, doctor, metrics."""
