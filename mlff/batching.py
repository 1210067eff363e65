"""Batches of any size through a compiled function, in chunks that fit a memory budget and few shapes."""

import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
import psutil

from mlff.precision import double_precision

LIVE = 4  # XLA holds about one in so many of the intermediate arrays at once: measured, symmetry functions of 100 atoms
DEFAULT_MEMORY = 16 * 2**20  # bytes in flight: about what stays in a core's cache, which is fastest
BATCH_MEMORY = 256 * 2**20  # bytes of one chunk, with what the descriptors hold: bounds it where cache does not matter
HESSIAN_MEMORY = 32 * 2**20  # of columns of a Hessian; more is slower: measured, ethanol, 1-hexanol and 100 atoms


CONTAINER = pathlib.Path("/sys/fs/cgroup")  # where Linux says what a container may take


def machine_memory() -> int:
    """Bytes of memory that this machine has, or the container that this process is in."""
    return min(psutil.virtual_memory().total, _container("memory.max") or sys.maxsize)


def free_memory() -> int:
    """Bytes of memory that nobody has taken."""
    limit, taken = _container("memory.max"), _container("memory.current")
    # what files are kept in memory is counted as taken there, but goes when it is needed
    cached = _container_file_cache() if limit is not None else 0
    beside = sys.maxsize if limit is None or taken is None else limit - taken + cached
    return max(0, min(psutil.virtual_memory().available, beside))


def _container(name: str) -> int | None:
    """A number of bytes that the container's system tells; None where there is no limit or no container."""
    try:
        text = (CONTAINER / name).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _container_file_cache() -> int:
    try:
        lines = (CONTAINER / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    told = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(told.get("inactive_file", 0))


def chunk_size(bytes_per_item: int, memory: int = DEFAULT_MEMORY) -> int:
    """The largest power of two of items whose intermediate arrays fit into `memory` bytes, at least 1."""
    return 1 << max(0, int(memory // max(1, bytes_per_item)).bit_length() - 1)


def map_chunks(function: Callable, arrays: tuple, chunk: int) -> Iterator[tuple[slice, tuple]]:
    """Apply a batched function chunk by chunk, in double precision.

    Every chunk has a power of two of items, and of several chunks all have the same (the last one is padded by repeating
    its last item): one batch is one compilation, and however many batches of whatever size a compiled function is given,
    it meets at most log2(chunk) + 1 shapes.

    Arguments:
        function: takes the arrays' chunks, returns a pytree of arrays with the same leading axis.
        arrays: arrays with one common leading axis, or pytrees of such.
        chunk: items a chunk, a power of two.
    Yields:
        (slice of the leading axis, results of it as NumPy arrays).
    """
    total = len(jax.tree.leaves(arrays)[0])
    compute = double_precision(function)  # here, not around the generator: its caller runs between the chunks
    for start in range(0, total, chunk):
        stop = min(start + chunk, total)
        size = chunk if total > chunk else 1 << (total - 1).bit_length()
        index = np.minimum(np.arange(start, start + size), stop - 1)
        taken = slice(start, stop) if size == stop - start else index
        piece = jax.tree.map(lambda leaf: leaf[taken], arrays)  # noqa: B023
        results = compute(*piece)
        yield slice(start, stop), jax.tree.map(lambda leaf: np.asarray(leaf)[: stop - start], results)  # noqa: B023


def working_bytes(function, *args) -> int:
    """About how many bytes of intermediate arrays a function holds at once, from its trace; nothing is computed."""
    return max(1, _traced_bytes(jax.make_jaxpr(function)(*args).jaxpr) // LIVE)


def _traced_bytes(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        inner = [value for value in inner if hasattr(value, "eqns")]
        shapes = [variable.aval for variable in equation.outvars]
        total += sum(map(_traced_bytes, inner)) if inner else sum(a.size * a.dtype.itemsize for a in shapes)
    return total
