"""Arithmetic of a descriptor: numbers of less than double precision on its way, what float32 would leave, time and memory."""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal
from jax.extend.source_info_util import summarize

from mlff.quality.audit.findings import Finding
from mlff.quality.audit.probes import Probe, jaxprs

NOISE_LIMIT = 1e-4  # of the largest feature


def precision(probe: Probe) -> Iterator[Finding]:
    """No number of less than double precision on the way, and what single precision would leave of the features."""
    narrow = list(dict.fromkeys(_narrow(probe)))
    if narrow:
        text = f"{'; '.join(narrow[:3])}: take dtypes from the positions (x.dtype) and make constants with NumPy, in float64"
        yield Finding("precision", float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps), text, False)
        return
    noise = _noise(probe)
    yield Finding.of(
        "precision", noise, NOISE_LIMIT, "noise of the features in float32, relative to the largest",
        "differences of large numbers cancel: rearrange them, or predict in float64",
    )  # fmt: skip


def _narrow(probe: Probe) -> Iterator[str]:
    """Constants and results of less than double precision in the descriptor, with their place."""
    for value in probe.traced.consts:
        if _is_narrow(value) or _was_narrow(value):
            yield f"a constant array of shape {np.shape(value)} was made in float32"
    for jaxpr in jaxprs(probe.traced.jaxpr):
        for equation in jaxpr.eqns:
            place = pathlib.PurePath(summarize(equation.source_info)).name
            if any(_is_narrow(var.aval) for var in (*equation.invars, *equation.outvars)):
                yield f"float32 at {place}"
            elif any(isinstance(var, Literal) and _was_narrow(var.val) for var in equation.invars):
                yield f"a float32 number at {place}"


def _is_narrow(value) -> bool:
    return jnp.issubdtype(value.dtype, jnp.inexact) and jnp.finfo(value.dtype).bits < 64


def _was_narrow(value) -> bool:
    """Whether a float64 constant was rounded to float32 before: few bits of its significand are used, yet many decimals."""
    value = np.asarray(value)
    if value.dtype != np.float64 or not value.size or not np.isfinite(value).all():
        return False
    if not np.array_equal(value, value.astype(np.float32).astype(np.float64)):
        return False
    significand = np.frexp(value)[0] * 2.0**16
    return bool((significand != np.round(significand)).any())


def _noise(probe: Probe) -> float:
    """max |φ₃₂ − φ₆₄| / max |φ₆₄| at positions that both can represent."""
    rounded = probe.frames.at(probe.frames.positions.astype(np.float32).astype(np.float64)).take([0])
    wide = probe.derivatives(rounded, np.zeros_like(rounded.positions))[0, 0]

    def single(leaf):
        leaf = np.asarray(leaf)
        return leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf

    arguments = jax.tree.map(single, (probe.descriptor, *probe.first(rounded)))
    with jax.enable_x64(False):
        narrow = np.asarray(jax.jit(probe.descriptor.__class__.__call__)(*arguments), dtype=np.float64)
    return float(np.abs(narrow.reshape(wide.shape) - wide).max() / max(np.abs(wide).max(), np.finfo(float).tiny))


def cost(probe: Probe, repeats: int = 5) -> dict[str, dict[str, float]]:
    """Seconds and bytes of temporaries for the value, the Jacobian and the Hessian of one geometry, compiled.

    The Hessian is that of the sum of all features.
    """
    arguments = jax.tree.map(jnp.asarray, (probe.descriptor, *probe.first(probe.frames)))
    costs = {}
    for name in ("value", "jacobian", "hessian"):
        compiled = getattr(probe, name)
        jax.block_until_ready(compiled(*arguments))
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            seconds.append(time.perf_counter() - start)
        memory = compiled.memory_analysis()
        size = np.nan if memory is None else memory.temp_size_in_bytes + memory.output_size_in_bytes
        costs[name] = {"seconds": statistics.median(seconds), "bytes": float(size)}
    return costs
