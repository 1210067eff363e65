"""Small products on threads of our own, BLAS on one."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import threadpoolctl

from mlff.threads import map_threads, processors


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
    with pytest.raises(ZeroDivisionError):
        map_threads(lambda x: 1 / x, [1, 0])


def test_systems_that_do_not_keep_processes_to_processors(monkeypatch):
    """macOS and Windows have no `sched_getaffinity`."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert map_threads(lambda x: -x, [1, 2]) == [-1, -2]


def test_threads_stay_and_map_by_themselves():
    """Inside of a thread nothing waits for another one, and no call starts new ones."""

    def doubled(row):
        return threading.get_ident(), map_threads(lambda x: (threading.get_ident(), 2 * x), row)

    seen = set()
    for _ in range(5):
        for outer, inner in map_threads(doubled, [[1, 2, 3]] * 8):
            assert inner == [(outer, 2), (outer, 4), (outer, 6)]
            seen.add(outer)
    assert len(seen) <= processors()


def test_after_an_error_nothing_is_begun():
    begun = []

    def failing(x):
        begun.append(x)
        raise ValueError(x)

    with pytest.raises(ValueError, match="0"):
        map_threads(failing, range(1000))
    assert len(begun) < 1000
    count = len(begun)
    assert map_threads(abs, range(20)) == list(range(20))
    assert len(begun) == count


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_has_threads_of_its_own():
    program = """
import os
from mlff.threads import map_threads
map_threads(abs, range(20))
child = os.fork()
if child == 0:
    os._exit(map_threads(abs, range(20)) != list(range(20)))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "0\n", ended.stderr
