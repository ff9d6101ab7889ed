"""Figures of schedules, grids, plans, runs and training objectives, drawn with matplotlib (the ``plot`` extra).

Each function returns a ``matplotlib.figure.Figure``; ``figure.savefig("a.png")`` writes it.
"""

from .convergence import plot_convergence
from .frames import plot_frames
from .levels import plot_grids, plot_schedules
from .notebook import plot
from .plans import plot_plan, plot_plan_difference
from .runs import animate, film_strip
from .training import plot_training

__all__ = [
    "animate", "film_strip", "plot", "plot_convergence", "plot_frames", "plot_grids", "plot_plan",
    "plot_plan_difference", "plot_schedules", "plot_training",
]  # fmt: skip
