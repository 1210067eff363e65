"""Arrays in double precision, switched on only inside our own functions: the user's JAX configuration is never touched.

Where single precision is wanted, all these functions compute in that instead: it is a matter of who asks, not of what is asked.
"""

import contextlib
import contextvars
import functools
import os

import jax
import numpy as np

Array = jax.Array | np.ndarray  # what signatures accept
_SINGLE = contextvars.ContextVar("single precision", default=False)


@functools.cache
def _home() -> int:
    """The process that computed first; a child that was forked from it inherits this answer, but not JAX's threads."""
    return os.getpid()


def doubled():
    """JAX's 64-bit types inside of a `with` block; its 32-bit types inside of a block of `singled`.

    Raises:
        RuntimeError: the process was forked from one that had computed already; JAX would wait for ever for its threads.
    """
    if _home() != os.getpid():
        raise RuntimeError(
            "this process was forked from one that had computed with JAX, whose threads do not come along: start it with "
            "multiprocessing.get_context('spawn'), or fork before the first computation"
        )
    return _narrow() if _SINGLE.get() else jax.enable_x64(True)


@contextlib.contextmanager
def singled():
    """Single precision inside of a `with` block, wherever else it would be double.

    Arrays that were put on a device before are double: ask a copy of a force field that was not asked before,
    `force_field.replace()`, and ask it in such blocks alone.
    """
    token = _SINGLE.set(True)
    try:
        yield
    finally:
        _SINGLE.reset(token)


@contextlib.contextmanager
def _narrow():
    """32-bit types; GPUs would multiply matrices with fewer digits than these have."""
    with jax.enable_x64(False), jax.default_matmul_precision("highest"):
        yield


def double_precision(function):
    """Run `function` with JAX's 64-bit types enabled, whatever the caller's setting."""

    @functools.wraps(function)
    def scoped(*args, **kwargs):
        with doubled():
            return function(*args, **kwargs)

    return scoped
