"""Sweeps: many settings over many recordings, into one table."""

from marblemaker.sweep.grid import Grid, RandomSearch, grid, random_search
from marblemaker.sweep.page import write_page
from marblemaker.sweep.run import Swept, sweep
from marblemaker.sweep.work import SweepError

__all__ = [
    "Grid",
    "RandomSearch",
    "SweepError",
    "Swept",
    "grid",
    "random_search",
    "sweep",
    "write_page",
]
