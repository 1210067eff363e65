"""Small products on threads of our own, BLAS on one."""

import os

import numpy as np
import threadpoolctl

from mlff.threads import map_threads


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


def test_results_in_order_and_blas_as_before(rng):
    before = blas_threads()
    matrices = rng.standard_normal((20, 30, 30))
    inside = map_threads(lambda _: blas_threads(), range(3))
    np.testing.assert_array_equal(map_threads(lambda a: a @ a, matrices), matrices @ matrices)
    assert all(count == 1 for counts in inside for count in counts)
    assert blas_threads() == before


def test_an_error_inside_arrives():
    import pytest

    with pytest.raises(ZeroDivisionError):
        map_threads(lambda x: 1 / x, [1, 0])


def test_systems_that_do_not_keep_processes_to_processors(monkeypatch):
    """macOS and Windows have no `sched_getaffinity`."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert map_threads(lambda x: -x, [1, 2]) == [-1, -2]
