"""The commands, one module for each group of them. They are loaded when called."""
