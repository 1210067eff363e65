"""The repulsion of two atoms at short range: what no reference frame shows, since atoms are never that close in them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Float

from descriptors.geometry import Environments, environments, lengths, smooth_cutoff
from mlff.arguments import require_positive
from mlff.potentials.potential import Potential
from mlff.precision import Array

COULOMB = 14.399645  # e²/4πε₀, eV Å
BOHR, REDUCTION = 0.529177, 0.88534  # Å; of the screening length
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


class PairRepulsion(Potential):
    """Ziegler, Biersack and Littmark's universal repulsion of screened nuclei, which vanishes at a cutoff.

        E = Σ_{i<j} z_i z_j e²/(4πε₀ r) Φ(r/a) f(r),     a = 0.88534 a₀/(z_i^0.23 + z_j^0.23)

    with Φ a sum of four exponentials and f the smooth cutoff function of the descriptors, three times continuously
    differentiable. As one term of a sum it keeps atoms apart where a model that was fitted to frames guesses:

        force_field = mlff.ForceField.of(mlff.PairRepulsion(cutoff=1.6)) + mlff.fit(kernel, train, labels)

    Without a difference on the training frames the cutoff is the closest distance that they show, or less.

    Attributes:
        cutoff: Å.

    Raises:
        ValueError: a cutoff that is not positive.
    Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985).
    """

    cutoff: float = struct.field(pytree_node=False, default=1.5)

    def __post_init__(self):
        require_positive("cutoff", self.cutoff, ", Å")

    @property
    def order(self) -> int | float:
        return 3

    @property
    def reach(self) -> float:
        return float(self.cutoff)

    @property
    def takes_cell(self) -> bool:
        return True

    @property
    def sees_alone(self) -> bool:
        return True

    @property
    def label(self) -> str:
        return f"pair repulsion within {self.cutoff:g} Å"

    def energy(self, positions: Float[Array, "n 3"], numbers, cell, neighbors=None) -> Float[Array, ""]:
        """The sum over all pairs, eV."""
        seen = environments(positions, numbers, cell, neighbors, self.cutoff)
        return jnp.sum(jax.vmap(self._of_atom)(jnp.asarray(numbers), seen))

    def environment_energies(self, element: int, centers, seen: Environments) -> Float[Array, " b"]:
        """Half of the pairs of each atom."""
        return jax.vmap(self._of_atom)(centers, seen)

    def _of_atom(self, number, seen: Environments) -> Float[Array, ""]:
        r = lengths(seen.vectors)
        one, other = (jnp.asarray(z, r.dtype) for z in (number, seen.numbers))
        x = r * (one**0.23 + jnp.where(other > 0, other, 1.0) ** 0.23) / (REDUCTION * BOHR)
        screened = sum(share * jnp.exp(-decay * x) for share, decay in SCREENING)
        return 0.5 * jnp.sum(COULOMB * one * other / r * screened * smooth_cutoff(r, self.cutoff))
