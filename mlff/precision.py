"""Arrays in double precision, switched on only inside our own functions: the user's JAX configuration is never touched."""

import functools
import os

import jax
import numpy as np

Array = jax.Array | np.ndarray  # what signatures accept


@functools.cache
def _home() -> int:
    """The process that computed first; a child that was forked from it inherits this answer, but not JAX's threads."""
    return os.getpid()


def doubled():
    """JAX's 64-bit types inside of a `with` block.

    Raises:
        RuntimeError: the process was forked from one that had computed already; JAX would wait for ever for its threads.
    """
    if _home() != os.getpid():
        raise RuntimeError(
            "this process was forked from one that had computed with JAX, whose threads do not come along: start it with "
            "multiprocessing.get_context('spawn'), or fork before the first computation"
        )
    return jax.enable_x64(True)


def double_precision(function):
    """Run `function` with JAX's 64-bit types enabled, whatever the caller's setting."""

    @functools.wraps(function)
    def scoped(*args, **kwargs):
        with doubled():
            return function(*args, **kwargs)

    return scoped
