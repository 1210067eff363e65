"""The tests run the notebooks with small settings."""

import os

os.environ["MLFF_EXAMPLES"] = "small"
