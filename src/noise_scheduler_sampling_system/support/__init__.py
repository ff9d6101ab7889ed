"""What every package stands on: errors, files, registries, curves and pictures. It imports nothing of the library."""
