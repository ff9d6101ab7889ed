"""Samplers side by side: the same noise, equal model calls, the error to the solution, and a page that shows it."""

from . import page  # noqa: F401  # provides Comparison.to_html
from .compare import compare
from .comparison import Cell, Comparison, Entry
from .reference import Reference

__all__ = ["Cell", "Comparison", "Entry", "Reference", "compare"]
