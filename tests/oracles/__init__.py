"""Slow, obviously correct versions of the numerical core, written from the equations and not from the code."""
