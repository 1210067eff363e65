"""SchNet: features of atoms from continuous-filter convolutions, and the energy that such features are learned from."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Integer

from descriptors.geometry import CUTOFFS, Array, Neighbors, environments, lengths

LAST_ELEMENT = 118  # rows of the embedding are indexed by atomic number; 0 is no element


def shifted_softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ssp(x) = ln(½ eˣ + ½), with ssp(0) = 0 and all derivatives."""
    return nn.softplus(x) - np.log(2.0)


def gaussians(
    r: Float[Array, "*shape"], cutoff: float | Float[Array, ""], number: int
) -> Float[Array, "*shape {number}"]:
    """Radial basis e_k = exp(−(r − μ_k)²/2δ²) with centres μ_k from 0 to the cutoff, as wide as they are apart (δ)."""
    steps = (r / cutoff)[..., None] * (number - 1) - np.arange(number, dtype=r.dtype)
    return jnp.exp(-0.5 * steps**2)


class Interaction(nn.Module):
    """What one convolution adds to the features: v_i = W₂ ssp(W₁ Σ_j (W₀ x_j) ∘ w(r_ij) f_c(r_ij)), layers with biases.

    The filters w(r) = ssp(W₄ ssp(W₃ e(r))) are a network of the radial basis.
    """

    features: int

    @nn.compact
    def __call__(self, x, basis, envelope, index):
        dense = functools.partial(nn.Dense, self.features, param_dtype=float)
        hidden = shifted_softplus(dense(name="filter_hidden")(basis))
        filters = shifted_softplus(dense(name="filter")(hidden)) * envelope[..., None]
        message = jnp.sum(dense(name="message")(x)[index] * filters, axis=1)
        return dense(name="update")(shifted_softplus(dense(name="update_hidden")(message)))


class SchNet(nn.Module):
    """Embedding, interactions and readout, as functions of what `_surroundings` returns."""

    features: int
    interactions: int

    def setup(self):
        size = (LAST_ELEMENT + 1, self.features)
        self.embedding = nn.Embed(*size, embedding_init=nn.initializers.normal(1.0), param_dtype=float)
        self.interaction = [Interaction(self.features) for _ in range(self.interactions)]
        self.readout_hidden = nn.Dense(max(1, self.features // 2), param_dtype=float)
        self.readout = nn.Dense(1, param_dtype=float)
        self.shift = nn.Embed(LAST_ELEMENT + 1, 1, embedding_init=nn.initializers.zeros, param_dtype=float)

    def atoms(self, numbers, basis, envelope, index):
        """Features of all atoms, shape (n, features)."""
        x = self.embedding(numbers)
        for interaction in self.interaction:
            x = x + interaction(x, basis, envelope, index)
        return x

    def energy(self, numbers, basis, envelope, index):
        """Sum of the atoms' energies."""
        x = self.atoms(numbers, basis, envelope, index)
        energies = self.readout(shifted_softplus(self.readout_hidden(x))) + self.shift(numbers)
        return jnp.sum(jnp.where(numbers > 0, energies[:, 0], 0.0))


def schnet_features(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    cell: Float[Array, "3 3"] | None = None,
    neighbors: Neighbors | None = None,
    *,
    parameters: Mapping[str, Any],
    cutoff: float | Array = 5.0,
    features: int = 32,
    interactions: int = 2,
    radial: int = 16,
    cutoff_function: str = "smooth",
) -> Float[Array, "n {features}"]:
    """SchNet's features of atoms, x_i ← x_i + v_i(x, r) repeated, from the embedding of the element on.

    Invariant under translation, rotation and reflection; an exchange of like atoms exchanges rows. An atom sees as far
    as `interactions` times the cutoff. Energies of the features have three continuous derivatives with the "smooth" cutoff.

    Arguments:
        positions: Cartesian coordinates, shape (n, 3), Å.
        numbers: atomic numbers, shape (n,).
        cell: cell vectors as rows, Å.
        neighbors: neighbour list; without it every atom sees all others.
        parameters: what `schnet_parameters` or a training returned: nested dictionaries of arrays.
        cutoff: r_c, Å.
        features, interactions, radial: sizes of the network, those the parameters were made for.
        cutoff_function: "smooth" or "cosine".
    Returns:
        shape (n, features), dimensionless: the features after the last interaction, before the readout.
    Raises:
        ValueError: sizes that are not those of the parameters.
    Source: Schütt et al., J. Chem. Phys. 148, 241722 (2018), doi 10.1063/1.5019779; the smooth cutoff function is ours.
    """
    _check_sizes(parameters, features, interactions, radial)
    surroundings = _surroundings(positions, numbers, cell, neighbors, cutoff, radial, cutoff_function)
    variables = {"params": _cast(parameters, positions.dtype)}
    return SchNet(features, interactions).apply(variables, *surroundings, method="atoms")


def schnet_energy(
    positions: Float[Array, "n 3"],
    numbers: Integer[Array, " n"],
    cell: Float[Array, "3 3"] | None = None,
    neighbors: Neighbors | None = None,
    *,
    parameters: Mapping[str, Any],
    cutoff: float | Array = 5.0,
    features: int = 32,
    interactions: int = 2,
    radial: int = 16,
    cutoff_function: str = "smooth",
) -> Float[Array, ""]:
    """Energy of the network, E = Σ_i (w · ssp(W x_i + b) + c + c_Z(i)); atoms of number 0 have none.

    Arguments: those of `schnet_features`.
    Returns:
        a scalar, in the unit of the energies it was trained with (eV).
    Raises:
        ValueError: sizes that are not those of the parameters.
    """
    _check_sizes(parameters, features, interactions, radial)
    surroundings = _surroundings(positions, numbers, cell, neighbors, cutoff, radial, cutoff_function)
    variables = {"params": _cast(parameters, positions.dtype)}
    return SchNet(features, interactions).apply(variables, *surroundings, method="energy")


def schnet_parameters(seed: int, *, features: int = 32, interactions: int = 2, radial: int = 16) -> dict[str, Any]:
    """Random parameters: weights of variance 1/(number of inputs), embeddings of variance 1, biases and shifts zero.

    Arguments:
        seed: of the random numbers; the same seed gives the same parameters.
        features, interactions, radial: sizes of the network.
    Returns:
        nested dictionaries of float64 arrays.
    """
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, _drawn(jax.random.key(seed), features, interactions, radial))


@functools.partial(jax.jit, static_argnames=("features", "interactions", "radial"))
def _drawn(key, features: int, interactions: int, radial: int):
    pair = (jnp.zeros((1, 1, radial)), jnp.zeros((1, 1)), np.zeros((1, 1), dtype=np.int32))
    return SchNet(features, interactions).init(key, np.ones(1, dtype=np.int32), *pair, method="energy")["params"]


def _surroundings(positions, numbers, cell, neighbors, cutoff, radial: int, cutoff_function: str):
    """What the network sees of the geometry: numbers (n,), radial basis (n, k, radial), cutoff function, indices (n, k)."""
    cutoff = jnp.asarray(cutoff, dtype=positions.dtype)
    # atoms numbered by their index: what comes back as numbers of the neighbours are their indices (0 in empty slots,
    # whose cutoff function is zero)
    vectors, index = environments(positions, np.arange(positions.shape[0]), cell, neighbors, cutoff)
    r = lengths(vectors)
    return jnp.asarray(numbers), gaussians(r, cutoff, radial), CUTOFFS[cutoff_function](r, cutoff), index


def _cast(parameters: Mapping[str, Any], dtype) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=dtype), dict(parameters))


def _check_sizes(parameters: Mapping[str, Any], features: int, interactions: int, radial: int) -> None:
    sizes = {
        "features": parameters["embedding"]["embedding"].shape[-1],
        "interactions": sum(name.startswith("interaction_") for name in parameters),
        "radial": parameters["interaction_0"]["filter_hidden"]["kernel"].shape[-2],
    }
    for name, given in (("features", features), ("interactions", interactions), ("radial", radial)):
        if sizes[name] != given:
            raise ValueError(
                f"parameters are those of a network of {name}={sizes[name]}, not {given}; give {name}={sizes[name]}"
            )
