"""`python -m mlff`: the command line."""

from mlff.cli import main

main()
