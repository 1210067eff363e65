"""How XLA compiles our functions: by options that shorten the wait."""

from __future__ import annotations

import functools

import jax

# Measured, jaxlib 0.10 on CPUs: functions of descriptors compile in two thirds of the time, and batches run as fast.
OPTIONS = {"xla_cpu_use_fusion_emitters": False}
UNOPTIMISED = {"xla_backend_optimization_level": 0}  # for what runs a few times; every version of XLA knows it


@functools.cache
def known_options() -> dict[str, bool]:
    """The options that this version of XLA takes: all, or none."""
    try:
        jax.jit(lambda: 0, compiler_options=OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:  # it knows no such option
        return {}
    return OPTIONS


def uncompiled(function):
    """What was compiled, to be traced as a part of another function: there it can have no options of its own."""
    return function.__wrapped__


def jit(function, **arguments):
    """`jax.jit` with these options, for functions that are called from Python alone: JAX takes options in no other place.

    They are asked for at the first call, so that importing compiles nothing.
    """

    @functools.cache
    def jitted():
        return jax.jit(function, compiler_options=known_options(), **arguments)

    @functools.wraps(function)
    def call(*args, **kwargs):
        return jitted()(*args, **kwargs)

    return call
