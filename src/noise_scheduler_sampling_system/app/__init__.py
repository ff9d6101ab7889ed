"""The command line, ``command_line.app``, and the demo's pictures, ``demo``. Each is imported where it is used."""
