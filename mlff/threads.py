"""Many small matrix products side by side: a Python thread each, BLAS itself kept to one thread.

BLAS divides every product among its threads. For products of a few megaflops the hand-over costs more than the work, and
where other processes compute beside us, many times more. Products of whole tiles are left to BLAS.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait

import threadpoolctl

SMALL = 50  # atoms


@functools.cache
def _controller() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux, where a process may be kept to some of them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_blas_thread():
    """BLAS on one thread inside of a `with` block."""
    return _controller().limit(limits=1, user_api="blas")


def few_threads(atoms: int):
    """Programs of others on one thread inside of a `with` block, where all they are given is a few atoms.

    Measured, GFN1-xTB of nine atoms on two processors: 3.9 ms on one thread and 2.9 ms on two, but beside another process 4.4 and 16.
    """
    return threadpoolctl.threadpool_limits(1) if atoms <= SMALL else contextlib.nullcontext()


def map_threads(function: Callable, items: Iterable) -> list:
    """`function` of every item, in order, on as many threads as there are processors; NumPy releases the lock.

    Threads compute in the precision of the one that started them. Inside of such a thread there are no further ones.
    """
    items = list(items)
    if getattr(_here, "is_worker", False):
        return [*map(function, items)]
    own = items[:1] if len(items) <= processors() else []  # handing it over costs as much as a small product
    with one_blas_thread():
        started = [
            _workers(processors()).submit(contextvars.copy_context().run, function, item) for item in items[len(own) :]
        ]
        try:
            return [*map(function, own), *(each.result() for each in started)]
        finally:  # where one of them failed the others are not worth beginning
            for each in started:
                each.cancel()
            wait(started)


_here = threading.local()


@functools.cache
def _workers(count: int) -> ThreadPoolExecutor:
    """Threads that stay: a new one is given memory of its own by the C library, which keeps what it has once taken."""
    return ThreadPoolExecutor(count, "mlff", initializer=lambda: setattr(_here, "is_worker", True))


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=_workers.cache_clear)
