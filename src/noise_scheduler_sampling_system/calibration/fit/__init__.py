"""The fit of a table to trajectories of a model."""
