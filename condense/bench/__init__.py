"""A grid of runs, its tables and its page."""

from condense.bench.grid import Grid, read_grid
from condense.bench.page import write_report
from condense.bench.runner import run_bench

__all__ = ["Grid", "read_grid", "run_bench", "write_report"]
