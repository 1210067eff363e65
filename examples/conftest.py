"""The tests run the notebooks with small settings, those that take longest among the thorough tests."""

import os

import pytest

os.environ["MLFF_EXAMPLES"] = "small"
LONGEST = ("06_", "07_")


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.suffix == ".ipynb" and item.path.name.startswith(LONGEST):
            item.add_marker(pytest.mark.thorough)
