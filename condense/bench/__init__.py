"""A grid of runs, its tables and its page."""
