"""Small products on threads of our own, BLAS on one."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("last", [0, 5])
def test_after_an_error_nothing_more_is_begun(error, last):
    """Nor goes anything on that was."""
    begun, ended = [], []

    def failing(x):
        begun.append(x)
        if x == last:
            raise error(x)
        time.sleep(0.02)
        ended.append(x)

    with pytest.raises(error, match=str(last)):
        map_threads(failing, range(100))
    count = len(ended)
    assert len(begun) == count + 1 < 60
    time.sleep(0.1)
    assert len(ended) == count
    assert map_threads(abs, range(20)) == list(range(20))


def test_interrupted_while_work_is_handed_over(monkeypatch):
    """What was handed over has ended when the caller is left."""
    submit, ended, asked = ThreadPoolExecutor.submit, [], []

    def interrupted(*arguments):
        asked.append(1)
        if len(asked) == 50:
            raise KeyboardInterrupt
        return submit(*arguments)

    def slow(x):
        time.sleep(0.02)
        ended.append(x)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        map_threads(slow, range(100))
    count = len(ended)
    time.sleep(0.1)
    assert len(ended) == count < 49


def test_threads_wait_for_no_other_threads():
    """A small piece of work beside a large one, and a thread that is started inside of one."""

    def through_another(x):
        found = []
        other = threading.Thread(target=lambda: found.extend(map_threads(abs, [-x] * 10)))
        other.start()
        other.join(timeout=30.0)
        return found

    long = threading.Thread(target=lambda: map_threads(lambda _: time.sleep(0.02), range(200)))
    long.start()
    assert map_threads(through_another, range(1, 9)) == [[x] * 10 for x in range(1, 9)]
    assert long.is_alive()
    long.join()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads are not kept to processors here")
def test_workers_are_where_their_caller_is():
    usable = os.sched_getaffinity(0)
    try:
        for one in sorted(usable):
            os.sched_setaffinity(0, {one})
            assert all(seen == {one} for seen in map_threads(lambda _: os.sched_getaffinity(0), range(4)))
    finally:
        os.sched_setaffinity(0, usable)
    assert all(seen == usable for seen in map_threads(lambda _: os.sched_getaffinity(0), range(4)))


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
