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
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

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

    Threads compute in the precision of the one that started them, and ask for no further ones. After an error nothing more is begun.
    """
    items = list(items)
    if _here.inside:
        return [*map(function, items)]
    own = items[:1] if len(items) <= processors() else []  # handing it over costs as much as a small product
    workers, started = _here.workers, list[Future]()
    with one_blas_thread():
        try:
            for item in items[len(own) :]:
                started.append(workers.submit(contextvars.copy_context().run, function, item))
            done = [*map(function, own)]
            ended, others = wait(started, return_when=FIRST_EXCEPTION)
            return [*done, *(each.result() for each in (ended if others else started))]
        finally:
            for each in started:
                each.cancel()
            wait(started)


class _Here(threading.local):
    """What is so of one thread.

    Its workers stay: a new thread is given memory of its own by the C library, which keeps what it has once taken. Every thread that asks
    has its own, so that a small piece of work does not wait for another thread's large one.

    Attributes:
        inside: whether it is one of the workers.
    """

    inside = False
    _known: tuple[object, ThreadPoolExecutor] | None = None

    @property
    def workers(self) -> ThreadPoolExecutor:
        """As many as there are processors; others where this thread may use other processors than before, which its workers inherit."""
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        if self._known is None or self._known[0] != usable:
            if self._known is not None:
                self._known[1].shutdown(wait=False)
            self._known = usable, ThreadPoolExecutor(processors(), "mlff", initializer=_enter)
        return self._known[1]


_here = _Here()


def _enter() -> None:
    _here.inside = True


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=lambda: _here.__dict__.clear())
