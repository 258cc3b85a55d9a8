"""Several processes that train one model: each has its rows of every batch."""

from lowerbound.parallel.environment import Environment, joined
from lowerbound.parallel.launch import launch
from lowerbound.parallel.rows import all_rows, own_rows, processes, sharing, team, together
from lowerbound.parallel.world import ALONE, World

__all__ = [
    "ALONE",
    "Environment",
    "World",
    "all_rows",
    "joined",
    "launch",
    "own_rows",
    "processes",
    "sharing",
    "team",
    "together",
]
