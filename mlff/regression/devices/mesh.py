"""The devices that share a fit: a mesh of one axis, and how arrays get there and back."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from mlff.compiling import known_options
from mlff.precision import doubled

AXIS = "devices"
SPLIT, COPIED = PartitionSpec(AXIS), PartitionSpec()  # by the first axis of an array; the whole of it on each


@dataclasses.dataclass(frozen=True)
class Devices:
    """JAX devices in a row; where processes were joined by `jax.distributed`, those of all of them.

    Attributes:
        mesh: of the one axis `AXIS`.
    """

    mesh: Mesh

    @classmethod
    def of(cls, asked) -> Devices | None:
        """Those asked for.

        Arguments:
            asked: "all", how many, or the devices themselves; None for no other than the processors of this host.
        Raises:
            ValueError: there are not so many, or processes are joined and some of their devices are left out.
        """
        if asked is None or isinstance(asked, Devices):
            return asked
        present = jax.devices()
        if isinstance(asked, str) and asked.isdecimal():
            asked = int(asked)
        if asked == "all":
            chosen = list(present)
        elif isinstance(asked, int) and not isinstance(asked, bool) and 1 <= asked <= len(present):
            chosen = list(present[:asked])
        elif isinstance(asked, (list, tuple)) and asked and all(isinstance(one, jax.Device) for one in asked):
            chosen = list(asked)
        else:
            raise ValueError(
                f"devices={asked!r:.60} must be 'all', a number up to {len(present)}, which JAX sees here, or JAX devices"
            )
        if jax.process_count() > 1 and set(chosen) != set(present):
            raise ValueError(
                f"devices: {len(chosen)} of the {len(present)} of {jax.process_count()} processes; joined processes share all, "
                "'all'"
            )
        return cls(Mesh(np.array(chosen), (AXIS,)))

    @property
    def count(self) -> int:
        return self.mesh.size

    @property
    def processes(self) -> int:
        return jax.process_count()

    @property
    def here(self) -> int:
        """How many of them are this process's."""
        return len(self.mesh.local_devices)

    @property
    def memory(self) -> int | None:
        """Bytes that one of them has of its own; None of processors, which share those of their host."""
        limits = [(device.memory_stats() or {}).get("bytes_limit") for device in self.mesh.local_devices]
        return None if None in limits or self.mesh.local_devices[0].platform == "cpu" else min(limits)

    def __str__(self) -> str:
        kind = self.mesh.devices.flat[0].device_kind
        among = f" of {self.processes} processes" if self.processes > 1 else ""
        return f"{self.count} device{'s' * (self.count > 1)} ({kind}){among}"

    def spread(self, array: Shaped[np.ndarray, "devices ..."]) -> jax.Array:
        """An array whose first axis is divided among the devices."""
        return self._put(array, SPLIT)

    def pieces(self, shape: tuple[int, ...], pieces: dict[str, np.ndarray]) -> jax.Array:
        """An array whose first axis is divided among the devices, of the pieces of those that are here, by their places."""
        with doubled():
            return jax.make_array_from_callback(
                shape, NamedSharding(self.mesh, SPLIT), lambda index: pieces[str(index[0].start or 0)][None]
            )

    def all_have(self, here: bool) -> bool:
        """Whether something is true in all processes."""
        return here if self.processes == 1 else bool(multihost_utils.process_allgather(np.int32(here)).all())

    def copied(self, array: Shaped[np.ndarray, "..."]) -> jax.Array:
        """An array of which each has the whole."""
        return self._put(array, COPIED)

    def _put(self, array, spec: PartitionSpec) -> jax.Array:
        with doubled():  # each process puts what is its own, so that no process needs another's
            array = np.asarray(array)
            return jax.make_array_from_callback(array.shape, NamedSharding(self.mesh, spec), lambda index: array[index])

    def shared(self, function: Callable, inputs, outputs, donated: tuple[int, ...] = ()) -> Callable:
        """A function of what one device has, as one of what all have; compiled once for every set of shapes.

        Arguments:
            inputs, outputs: `SPLIT` or `COPIED`, one for each.
            donated: places of the arguments whose memory the results may take.
        """

        @functools.cache
        def compiled():
            mapped = jax.shard_map(function, mesh=self.mesh, in_specs=inputs, out_specs=outputs, check_vma=False)
            return jax.jit(mapped, donate_argnums=donated, compiler_options=known_options())

        def call(*arguments):
            with doubled():
                return compiled()(*arguments)

        return call

    def agreed(self, value: Any) -> Any:
        """Plain data, as JSON has it, of the first process: what each found for itself may differ by rounding or by memory."""
        if self.processes == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
        padded = np.zeros(length, dtype=np.uint8)
        padded[: min(length, len(text))] = text[:length]
        return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes().decode())

    def require_same(self, digest: str) -> None:
        """Refuse, in all processes, what is not the same in all: each would compute with its own.

        Raises:
            ValueError: it is not.
        """
        self._require(self.agreed(digest) == digest)

    def _require(self, same: bool) -> None:
        if not self.all_have(same):
            raise ValueError(
                "devices: the processes were not asked for the same; each must be given the same frames, model and options, and differ in "
                "the number of the process alone"
            )

    def agreed_numbers(self, tree, tolerance: float | None = None):
        """A tree of arrays and numbers with the real ones of the first process.

        Arguments:
            tolerance: by how much of them others may differ; None for any.
        Raises:
            ValueError: in all processes, where one's differ by more.
        """
        leaves, structure = jax.tree.flatten(tree)
        real = [i for i, leaf in enumerate(leaves) if np.issubdtype(np.result_type(leaf), np.floating)]
        own = [np.asarray(leaves[i]) for i in real]
        told = [np.asarray(value) for value in self.agreed([array.tolist() for array in own])]
        if tolerance is not None:
            alike = [array.shape for array in own] == [array.shape for array in told]
            near = alike and all(np.allclose(a, b, rtol=tolerance, atol=0.0) for a, b in zip(own, told, strict=True))
            self._require(near)
        for i, value in zip(real, told, strict=True):
            leaves[i] = value if value.ndim else float(value)
        return jax.tree.unflatten(structure, leaves)


def fetched(array: jax.Array) -> np.ndarray:
    """An array of which each device has the whole."""
    return np.asarray(array.addressable_data(0))
