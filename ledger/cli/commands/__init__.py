"""The commands, one module for each group, loaded when a command is called."""
