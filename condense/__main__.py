"""`python -m condense` is the program `condense`."""

from condense.cli import main

main()
