"""The search for the best plan of N model calls: starts, fits, and the choice among the results."""
