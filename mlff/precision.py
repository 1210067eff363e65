"""Arrays in double precision, switched on only inside our own functions: the user's JAX configuration is never touched."""

import functools

import jax
import numpy as np

Array = jax.Array | np.ndarray  # what signatures accept


def double_precision(function):
    """Run `function` with JAX's 64-bit types enabled, whatever the caller's setting."""

    @functools.wraps(function)
    def scoped(*args, **kwargs):
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return scoped
