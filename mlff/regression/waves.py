"""Random functions of a kernel's prior, and what training labels would be of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mlff.compiling import jit
from mlff.kernels.kernels import Kernel
from mlff.kernels.radial import Polynomial
from mlff.potentials.expansion import Part, constant_elements
from mlff.potentials.waves import Products, RandomFunction, Waves
from mlff.precision import double_precision
from mlff.regression.system.features import Features
from mlff.regression.system.gram import Side
from mlff.regression.system.kernel_blocks import groups_of, unpadded_rows
from mlff.regression.system.terms import Term

# Of every species and part of the kernel. Measured of forces, ethanol, 200 frames of sgdml-rbf: beyond the spread that 32 samples have by
# chance, their standard deviations are 8 % off with 100 waves, which they share (60 frames of SOAP: 7 %), 5 % with 250, less than can be
# seen with 500. A committee of eight is off by 25 % by chance, and takes a quarter less time or more with 250 than with 500.
WAVES = 250


class Drawn(NamedTuple):
    """One part of a kernel to draw functions of: with its amplitude, eV², how an exchange of atoms rearranges features, (P, D) or
    None, and the features of every block."""

    part: Kernel
    amplitude: float
    images: np.ndarray | None
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, term: Term, amplitude: float) -> Drawn:
        """Of a part with training frames under it.

        Raises:
            ValueError: a molecule whose exchanges of atoms do not rearrange features.
        """
        if term.computes_images:
            raise ValueError(
                f"sample: exchanges of atoms do not merely rearrange descriptor {term.kernel.leaves[0].descriptor.name}; ask for "
                "covariances instead"
            )
        return cls(term.kernel, amplitude, term.rearranged, term.sizes)


def random_functions(drawn: Sequence[Drawn], generator: np.random.Generator, count: int) -> list[RandomFunction]:
    """Functions whose covariance over all seeds is the kernel with its amplitude; they share their waves, not the strengths.

    Raises:
        ValueError: a radial function that none can be drawn from.
    """
    parts = [_parts(of_one, generator, count) for of_one in drawn]
    elements = constant_elements([of_one.part for of_one in drawn])
    constants = np.zeros(1 if elements is None else len(elements))
    return [RandomFunction(of_one, constants, elements, label_order=0) for of_one in zip(*parts, strict=True)]


def _parts(drawn: Drawn, generator: np.random.Generator, count: int) -> list[Part]:
    """One part of each function."""
    order = 1 if drawn.images is None else len(drawn.images)
    channels = [_channel(drawn, order, generator, count) for _ in range(drawn.part.channel_count)]
    return [Part(drawn.part.bare(), of_one, drawn.images, drawn.sizes) for of_one in zip(*channels, strict=True)]


def _channel(drawn: Drawn, order: int, generator: np.random.Generator, count: int) -> list[Waves] | list[Products]:
    leaves, radial = drawn.part.leaves, drawn.part.radial
    strengths = np.sqrt(drawn.amplitude / WAVES) / order * generator.standard_normal((count, WAVES))
    if isinstance(radial, Polynomial):
        factors = generator.standard_normal((WAVES, radial.degree, drawn.sizes[0] + 1))
        constants = factors[..., -1] * np.sqrt(1.0 - 1.0 / float(radial.lengthscale) ** 2)
        return [Products(factors[..., :-1], constants, a) for a in strengths]
    pairs = [leaf.radial.frequencies(generator, WAVES, size) for leaf, size in zip(leaves, drawn.sizes, strict=True)]
    vectors = np.concatenate([vectors for vectors, _ in pairs], axis=1)
    weights = np.prod([weights for _, weights in pairs], axis=0)
    phases = generator.uniform(0.0, 2.0 * np.pi, WAVES)
    return [Waves(vectors, phases, np.sqrt(2.0 * weights) * a) for a in strengths]


def label_values(function: RandomFunction, features: Features) -> Float[np.ndarray, " rows"]:
    """What all rows of frames say of a random function, L g."""
    found = []
    for group in groups_of(features):
        total = 0.0
        for term, part in zip(features.terms, function.parts, strict=True):
            # the mean over a molecule's images is in its columns; here it is in the strengths
            order = 1 if part.images is None else len(part.images)
            for side, channel in zip(term.columns(features.observations, group), part.channels, strict=True):
                if side.points.shape[1]:
                    total = total + order * _of_side(side, channel)
        found.append(unpadded_rows(total, features.row_counts[group]))
    return np.concatenate(found)


def _of_side(side: Side, channel: Waves | Products) -> Float[np.ndarray, "m r"]:
    """v g + t·∇g + W:∇∇g, summed over environments."""
    values, slopes = _jets(channel, side.points)
    total = np.einsum("mer,me->mr", side.values, values)
    total += np.einsum("merd,med->mr", side.tangents, slopes, optimize=True)
    if side.curved.shape[2]:
        bent = np.asarray(_bent(channel, side.points, side.curved))
        first, second = np.triu_indices(side.curved.shape[2])
        total += np.einsum("mrp,mp->mr", side.weights, bent[:, first, second])
    return total


@double_precision
def _jets(channel: Waves | Products, points: Float[np.ndarray, "m e D"]) -> tuple[np.ndarray, np.ndarray]:
    """g and ∇g at points, (m, e) and (m, e, D)."""
    flat = points.reshape(-1, points.shape[-1])
    values, slopes = (np.asarray(array) for array in _value_and_slope(channel, flat))
    return values.reshape(points.shape[:2]), slopes.reshape(points.shape)


def values_at(channel: Waves | Products, points: Float[np.ndarray, "M D"]) -> Float[np.ndarray, " M"]:
    """g at points."""
    return _jets(channel, points[:, None])[0][:, 0]


def _value(channel, point):
    return channel.energies(None, point[None], ())[0]


@jit
def _value_and_slope(channel, points):
    return jax.vmap(jax.value_and_grad(functools.partial(_value, channel)))(points)


@double_precision
@jit
def _bent(channel, points, curved):
    """Second derivatives of g along the coordinates that labels of second order see, summed over environments, (m, s, s)."""

    def single(point, along):
        return jax.hessian(lambda q: _value(channel, point + q @ along))(jnp.zeros(len(along)))

    return jax.lax.map(lambda pair: jnp.sum(jax.vmap(single)(*pair), axis=0), (points, curved))
