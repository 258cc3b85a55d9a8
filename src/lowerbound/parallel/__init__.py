"""Several processes that train one model, or do other work together: each has its rows of every batch, its part of the
images."""

from lowerbound.parallel.environment import Environment, joined
from lowerbound.parallel.launch import launch
from lowerbound.parallel.rows import all_rows, own_rows, processes, sharing
from lowerbound.parallel.team import by_first, each_once, gathered, part_of, team, together
from lowerbound.parallel.world import ALONE, World

__all__ = [
    "ALONE",
    "Environment",
    "World",
    "all_rows",
    "by_first",
    "each_once",
    "gathered",
    "joined",
    "launch",
    "own_rows",
    "part_of",
    "processes",
    "sharing",
    "team",
    "together",
]
