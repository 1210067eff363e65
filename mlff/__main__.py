"""`python -m mlff`: the command line."""

import pathlib
import sys

# `python -m` looks for modules in the current folder first: a file to read must not lie beside code that is run because of it
if not sys.flags.safe_path and pathlib.Path(sys.path[0]).resolve() != pathlib.Path(__file__).resolve().parents[1]:
    del sys.path[0]

from mlff.cli.main import main

main()
