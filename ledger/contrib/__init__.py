"""Adapters for libraries that applications use. Each module is for one library, and is loaded by nothing else."""
