"""Local kernels of fewer features: the principal components of environments in the frames at hand."""

from __future__ import annotations

import dataclasses

import numpy as np

from mlff.arguments import checked_seed, is_number
from mlff.data.batches import Batch, LabelledFrames
from mlff.data.dataset import Dataset, require_dataset
from mlff.kernels.components import Components, Moments
from mlff.kernels.environments import ENVIRONMENTS, features_in, grouped, sees_alone
from mlff.kernels.jets import block_sizes, require_unit_length
from mlff.kernels.kernels import Kernel, LocalKernel

DISPLACEMENT = 0.05  # Å, of atoms, to see what changes
ATOMS = 4000  # of the frames that are looked at
ENOUGH, ROUNDS = (
    4,
    10,
)  # environments of every element, in as many as there are features, and how often frames are displaced


def reduced(kernel: Kernel, data: Dataset, dropped: float = 1e-6, seed: int = 0) -> Kernel:
    """The kernel with the features of its local terms reduced to principal components, element by element.

        kernel = mlff.reduced(mlff.LocalKernel(soap, mlff.RBF()), data)

    Fit and prediction cost in proportion to the number of features. Measured, silicon: of the 495 numbers of a power spectrum
    174 hold all but a millionth of the variance, and errors of energies and forces stay the same to a percent.

    Arguments:
        kernel: with at least one local kernel in it; global ones stay as they are.
        data: frames of whose environments the components are.
        dropped: share of the variance of every element's environments, and of their changes, that may be left out.
        seed: of the frames that are drawn, where there are many, and of the displacements.
    Raises:
        ValueError: no local kernel, a length scale for every feature, features that are not finite, or no share.
    """
    if not is_number(dropped) or not 0.0 < dropped < 1.0:
        raise ValueError(f"dropped={dropped!r} must be a share of the variance, between 0 and 1")
    require_dataset(data)
    frames = LabelledFrames.of(data)
    kernel = kernel.completed(np.concatenate(frames.compositions))
    if not any(isinstance(leaf, LocalKernel) for leaf in kernel.leaves):
        raise ValueError("reduced: the kernel has no local term, whose environments could be reduced to components")
    require_unit_length(kernel, frames.batches[0])
    generator = np.random.default_rng(checked_seed(seed))
    frames = _some(frames, generator)
    return kernel.with_leaves(
        [
            _reduced(leaf, frames, dropped, generator) if isinstance(leaf, LocalKernel) else leaf
            for leaf in kernel.leaves
        ]
    )


def _reduced(leaf: LocalKernel, frames: LabelledFrames, dropped: float, generator) -> LocalKernel:
    if np.size(leaf.radial.lengthscale) > 1:
        raise ValueError(
            f"reduced: {leaf.descriptor.name} has a length scale for every feature, and components mix features; give one"
        )
    plain = leaf.replace(radial=leaf.radial.replace(lengthscale=1.0), amplitude=None, components=None)
    (size,) = block_sizes(plain, frames.batches[0])
    moments = [Moments(size) for _ in range(plain.channel_count)]
    alone, rounds = sees_alone(plain, frames.batches[0]), 0
    while rounds < ROUNDS and min(of_element.count for of_element in moments) < ENOUGH * size:
        rounds += 1
        for group in grouped(frames, ENVIRONMENTS):
            values, channels = features_in(plain, group, alone)
            moved, _ = features_in(plain, [_displaced(batch, generator) for batch in group], alone)
            if not np.isfinite(moved - values).all():
                raise ValueError(f"reduced: descriptor {leaf.descriptor.name} is not finite in all frames")
            for channel, of_element in enumerate(moments):
                of_element.add(values[channels == channel], moved[channels == channel])
    return leaf.replace(components=Components.of(moments, dropped, leaf.radial.of_unit_length))


def _some(frames: LabelledFrames, generator) -> LabelledFrames:
    """Frames that are drawn, with about as many atoms as are looked at, and some of every composition."""
    sizes = {int(i): len(batch.numbers) for batch in frames.batches for i in batch.index}
    first = {int(batch.index[0]) for batch in frames.batches}
    drawn = [int(i) for i in generator.permutation(frames.index) if int(i) not in first]
    within = np.cumsum([sizes[i] for i in drawn]) <= ATOMS
    return frames.take(np.array(sorted(first | {i for i, kept in zip(drawn, within, strict=True) if kept})))


def _displaced(batch: Batch, generator) -> Batch:
    steps = DISPLACEMENT * generator.standard_normal(batch.positions.shape)
    return dataclasses.replace(batch, positions=batch.positions + steps)
