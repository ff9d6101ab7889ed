"""The commands, one a file. Heavy modules are imported inside of a command, so that ``--help`` is fast."""
