"""Audit: everything that must hold of a descriptor before anyone trusts it, examined on a few frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from mlff.arguments import checked_seed
from mlff.data.dataset import Dataset
from mlff.data.frames import Frame
from mlff.kernels.descriptor import Descriptor
from mlff.precision import double_precision
from mlff.quality.audit import invariance, numerics, sight, smoothness
from mlff.quality.audit.findings import Finding, worst
from mlff.quality.audit.probes import Geometries, Probe

EXAMINATIONS = (
    invariance.invariances,
    invariance.exchange,
    invariance.supercell,
    smoothness.derivatives,
    smoothness.smoothness,
    smoothness.far_from_the_origin,
    sight.rank,
    sight.species,
    sight.constants,
    numerics.precision,
)


@dataclasses.dataclass(frozen=True)
class Audit:
    """What an examination of a descriptor found.

    Attributes:
        descriptor: `package.module:function`.
        frames: labels of the frames it was examined on.
        findings: one a property.
        costs: of value, Jacobian and Hessian of one geometry: "seconds", and "bytes" of memory.
    """

    descriptor: str
    frames: tuple[str, ...]
    findings: tuple[Finding, ...]
    costs: dict[str, dict[str, float]]

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    def __getitem__(self, name: str) -> Finding:
        """The finding of a name."""
        return next(finding for finding in self.findings if finding.name == name)

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """Rows for a terminal: property, verdict, number, limit, text."""
        return [finding.row() for finding in self.findings]

    def to_json(self) -> dict:
        """Plain values."""
        return {
            "descriptor": self.descriptor,
            "frames": list(self.frames),
            "passed": self.passed,
            "findings": [finding.to_json() for finding in self.findings],
            "costs": self.costs,
        }


@double_precision
def audit(function: Callable | Descriptor, frames: Dataset | Sequence[Frame], count: int = 4, seed: int = 0) -> Audit:
    """Examine a descriptor on frames, a few of which are chosen, all elements among them.

    Arguments:
        function: the descriptor, `functools.partial` of it, or `Descriptor`.
        frames: reference frames; their labels are not looked at.
        count: how many are chosen; more, if their elements need them.
        seed: of displacements and directions.
    Raises:
        ValueError: no frames; the function is no descriptor.
    """
    descriptor, seed = Descriptor.wrap(function), checked_seed(seed)
    if not len(frames):
        raise ValueError("frames: there are none; give at least one geometry to examine the descriptor on")
    findings: list[Finding] = []
    try:
        descriptor = descriptor.completed(np.concatenate([frame.numbers for frame in frames]))
    except ValueError as error:
        findings.append(Finding("species", np.inf, 0.0, str(error), False))
    chosen = _choose(frames, count)
    names = frames.indices if isinstance(frames, Dataset) else np.arange(len(frames))
    labels = {i: f"frame {names[i]}" for i in chosen}
    probes = []
    for size in sorted({len(frames[i].numbers) for i in chosen}):
        mine = [i for i in chosen if len(frames[i].numbers) == size]
        geometries = Geometries.of([frames[i].system for i in mine])
        probes.append(Probe(descriptor, geometries, tuple(labels[i] for i in mine), seed))
    costs: dict[str, dict[str, float]] = {}
    with jax.numpy_dtype_promotion("standard"):  # mixed dtypes are a finding, not an error
        for probe in probes:
            findings += _examine(probe)
        examined = "precision" in {finding.name for finding in findings}
        if examined:
            costs = numerics.cost(probes[-1])
            findings.append(_cost(costs, probes[-1].atoms))
    return Audit(descriptor.name, tuple(labels.values()), worst(findings), costs)


def _examine(probe: Probe) -> Iterator[Finding]:
    """Examine the frames of one size; of a descriptor that gives no finite derivatives nothing more is asked."""
    try:
        _ = probe.traced
    except jax.errors.JAXTypeError as error:
        text = f"{_first_line(error)}; write it in jax.numpy, with jnp.where and static shapes in place of Python's if and loops"
        yield Finding("compiles", 1.0, 0.0, text, False)
        return
    if not (len(probe.shape) == 1 or (len(probe.shape) == 2 and probe.shape[0] == probe.atoms)):
        raise ValueError(
            f"descriptor {probe.descriptor.name} gives shape {probe.shape} for {probe.atoms} atoms; expected (D,) for a molecule "
            f"or ({probe.atoms}, D) for atomic environments: reshape its result"
        )
    if 0 in probe.shape:
        alone = "; nothing was examined: there is nothing for one atom to see" if probe.atoms == 1 else "; return some"
        yield Finding("constants", 0.0, 0.0, f"no features for {probe.atoms} atoms{alone}", probe.atoms == 1)
        return
    try:
        _ = probe.sample, probe.hessian
    except (TypeError, ValueError, NotImplementedError) as error:
        text = (
            f"JAX cannot differentiate it: {_first_line(error)}; derivatives must pass in forward mode (custom_jvp, not "
            "custom_vjp) and in reverse mode (no while_loop)"
        )
        yield Finding("derivatives", np.nan, smoothness.DIFFERENCE_LIMIT, text, False)
        return
    finite = list(invariance.finite(probe))
    yield from finite
    if not all(finding.passed for finding in finite):
        return
    for examination in EXAMINATIONS:
        yield from examination(probe)


def _choose(frames: Sequence[Frame], count: int) -> list[int]:
    """Indices of frames spread over all, and of the first frame with each element that those lack."""
    chosen = sorted({int(i) for i in np.linspace(0, len(frames) - 1, min(count, len(frames)))})
    present = {int(z) for i in chosen for z in frames[i].numbers}
    for i in range(len(frames)):
        if new := {int(z) for z in frames[i].numbers} - present:
            chosen.append(i)
            present |= new
    return chosen


def _cost(costs: dict[str, dict[str, float]], atoms: int) -> Finding:
    """The costs in words; the number is the seconds of a value."""
    parts = [f"{name} {1e3 * cost['seconds']:.3g} ms, {cost['bytes'] / 1e6:.3g} MB" for name, cost in costs.items()]
    return Finding.of("cost", costs["value"]["seconds"], np.inf, f"{'; '.join(parts)}; one geometry of {atoms} atoms")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
