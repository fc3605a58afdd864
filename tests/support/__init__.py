"""What several tests need: real servers and what is done to them, sample events, forged entries."""
