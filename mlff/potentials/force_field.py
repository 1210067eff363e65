"""From one energy function to forces, stress, Hessians and force constants, for every kind of model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import struct
from jaxtyping import Float, Integer

from mlff.arguments import checked_seed
from mlff.batching import BATCH_MEMORY, HESSIAN_MEMORY, chunk_size, map_chunks
from mlff.data.batches import LabelledFrames, arguments_of
from mlff.data.cells import volume
from mlff.data.neighbors import wants_list
from mlff.data.permutations import Permutations
from mlff.kernels.descriptor import Descriptor
from mlff.kernels.kernels import Kernel
from mlff.operators import ENERGY, FORCES, HESSIAN, HESSIAN_PRODUCTS, STRESS, Operator, find_operator, order_of
from mlff.potentials.arguments import chosen_atoms, coordinates, displacements, one_geometry, require_atoms
from mlff.potentials.calibration import Calibration
from mlff.potentials.committee import Committee
from mlff.potentials.compiled import arrived
from mlff.potentials.derivatives import symmetric_tensor, unordered_choices
from mlff.potentials.energy_function import EnergyFunction
from mlff.potentials.entrance import Entrance, require_strainable
from mlff.potentials.environmental import Summed
from mlff.potentials.label_weights import LabelWeights
from mlff.potentials.potential import Potential
from mlff.potentials.record import joined
from mlff.potentials.sums import PotentialSum
from mlff.potentials.uncertainty import WITHOUT, Uncertainty, UncertaintySum, answer_shape, geometries
from mlff.precision import doubled
from mlff.trees import Tree
from mlff.units import formula

Positions = Float[np.ndarray | jax.Array, "*batch n 3"]
Vectors = Float[np.ndarray | jax.Array, "*k n 3"]
MEMBERS = 8  # of the committee that stands for a posterior in simulations and model files


class ForceField(Tree):
    """Any potential as a force field: energies in eV, forces in eV/Å, Hessians in eV/Å², always NumPy float64.

    Attributes:
        model: the potential; `model.arranged(numbers).energy(positions, numbers, cell, neighbors)` is the pure JAX function for
            those who compose it under their own 64-bit setting.
        numbers: atomic numbers it was made for, shape (n,); None for one of several compositions.
        kernel: the kernel it was fitted with, hyperparameters filled in; None for a potential that is no expansion.
        record: how it came to be: units, labels, noise, training indices, data hash, errors, versions.
        posterior: what the fit left open, where it was asked to keep that; None without.
        calibration: what its error bars are multiplied by, from frames that were held out; None for 1.
        weights: of its labels, where an iterative fit of more frames may begin; None of others, and of files.
    """

    model: Potential
    numbers: np.ndarray | None = None
    kernel: Kernel | None = None
    record: dict[str, Any] = struct.field(pytree_node=False, default_factory=dict)
    posterior: Uncertainty | None = struct.field(pytree_node=False, default=None)
    calibration: Calibration | None = struct.field(pytree_node=False, default=None)
    weights: LabelWeights | None = struct.field(pytree_node=False, default=None)

    @classmethod
    def of(
        cls,
        energy,
        numbers: Integer[np.ndarray, " n"] | Sequence[int] | None = None,
        elements: Sequence[int] | None = None,
        order: float | int = math.inf,
    ) -> ForceField:
        """A force field of any energy: a `Potential`, or a JAX function of positions that returns one number, eV.

            force_field = mlff.ForceField.of(lennard_jones)

        As of descriptors, keyword parameters named `numbers`, `cell` and `neighbors` are supplied, and `functools.partial` sets
        others. A function that takes `neighbors` has a parameter `cutoff`, and sums over both directions of a pair.

        Arguments:
            energy: the potential or function.
            numbers: atomic numbers of the molecule it is for, shape (n,); None for any atoms.
            elements: atomic numbers that a function knows; None for all.
            order: how many continuous derivatives a function has.
        Raises:
            ValueError: no function of positions, or its arguments do not fit.
        """
        if not isinstance(energy, Potential):
            known = None if elements is None else tuple(sorted({int(z) for z in elements}))
            energy = EnergyFunction(Descriptor.wrap(energy), known, order)
        return cls(energy, None if numbers is None else np.asarray(numbers, dtype=np.int32))

    def __add__(self, other: ForceField) -> ForceField:
        """The force field of the sum of both energies: a baseline and a correction, for instance.

        Raises:
            ValueError: they are for different molecules.
        """
        if not isinstance(other, ForceField):
            return NotImplemented
        numbers = self.numbers if not self.transferable or other.numbers is None else other.numbers
        for one in (self, other):
            if numbers is not None:
                require_atoms(one, numbers, "sum of force fields")
        model, record = PotentialSum((self.model, other.model)), joined(self.record, other.record)
        uncertain = [one for one in (self, other) if one.posterior is not None]
        if len(uncertain) < 2:  # one that has no posterior counts as known
            posterior, calibration = (uncertain[0].posterior, uncertain[0].calibration) if uncertain else (None, None)
            return ForceField(model, numbers, None, record, posterior, calibration)
        terms, factors = tuple(one.posterior for one in uncertain), tuple(one._factor for one in uncertain)
        return ForceField(model, numbers, None, record, UncertaintySum(terms, factors))

    def __repr__(self) -> str:
        made_for = "any composition" if self.numbers is None else formula(self.numbers)
        return f"ForceField({made_for}, {self.model.label})"

    @functools.cached_property
    def takes_cell(self) -> bool:
        """Whether it can be asked about periodic cells."""
        return self.model.takes_cell

    @functools.cached_property
    def transferable(self) -> bool:
        """Whether it takes any composition of the elements that it knows."""
        return self.model.transferable

    @property
    def permutations(self) -> Permutations | None:
        """The group of exchanges of atoms that the fit made its energy symmetric under; None without one."""
        return None if self.kernel is None else self.kernel.permutations_used

    @property
    def closest(self) -> dict[str, float]:
        """The smallest distance between two atoms of each pair of elements in the training frames, Å; keys such as "C-H"."""
        return self.record.get("closest") or {}

    def energy(self, positions: Positions, cell=None, pbc=None, numbers=None) -> float | np.ndarray:
        """Potential energy, eV: a float for positions of shape (n, 3), an array (m,) for (m, n, 3)."""
        return self.energy_and_forces(positions, cell, pbc, numbers)[0]

    def forces(self, positions: Positions, cell=None, pbc=None, numbers=None) -> np.ndarray:
        """Forces −∂E/∂x, eV/Å, in the shape of the positions."""
        return self.energy_and_forces(positions, cell, pbc, numbers)[1]

    def energy_and_forces(
        self, positions: Positions, cell=None, pbc=None, numbers=None, memory: int = BATCH_MEMORY
    ) -> tuple[float | np.ndarray, np.ndarray]:
        """Energy and forces by one reverse pass.

        Arguments:
            positions: shape (n, 3), or (m, n, 3) for a batch, Å.
            cell: cell vectors as rows, shape (3, 3) or (m, 3, 3), Å, for descriptors that take one.
            pbc: which directions are periodic, shape (3,) or (m, 3); without it those that have a cell vector.
            numbers: atomic numbers, shape (n,), where they are not the ones that the force field was made for
                (local kernels: any composition of the elements that it knows).
            memory: bytes of intermediate arrays that a batch may take; it is worked off in chunks.
        Returns:
            energy, eV, a float or shape (m,); forces, eV/Å, shape (n, 3) or (m, n, 3).
        Raises:
            ValueError: other atoms, no such shape, positions or results that are not finite.
        """
        if (summed := self._entrance.summed(positions, cell, pbc, numbers)) is not None:
            energies, forces = summed.energies, -summed.gradients.reshape(np.shape(positions))
            return (float(energies[0]), forces) if forces.ndim == 2 else (energies, forces)
        prepared, positions, around = self._entrance.checked(positions, cell, pbc, numbers)
        if positions.ndim == 2:
            with doubled():
                packed = arrived(prepared.functions.single(prepared.leaves, prepared.numbers, positions, *around))
            if not np.isfinite(packed).all():
                self._entrance.refuse(positions)
            return float(packed[0]), prepared.of_atoms(packed[1:].reshape(positions.shape)).copy()
        one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (positions, around))
        size = prepared.batch_size(*one, memory)
        function = functools.partial(prepared.functions.batch, prepared.leaves, prepared.numbers)
        packed = np.empty((len(positions), 1 + 3 * positions.shape[1]))
        for piece, result in map_chunks(function, (positions, around), size):
            packed[piece] = result
        if not np.isfinite(packed).all():
            self._entrance.refuse(positions)
        return packed[:, 0].copy(), prepared.of_atoms(packed[:, 1:].reshape(positions.shape))

    def hessian(
        self,
        positions: Positions,
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
        moving: Integer[np.ndarray, " m"] | Sequence[int] | None = None,
    ) -> np.ndarray:
        """Second derivatives ∂²E/∂x², eV/Å², shape (3n, 3n), row = 3·atom + xyz; forward over reverse.

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            memory: bytes of intermediate arrays to stay within, as far as one column at a time can.
            moving: indices of m atoms; the result is then their block in this order, shape (3m, 3m), and only the columns
                of these atoms are computed.
        Raises:
            ValueError: the kernel is not smooth enough for labels of this order (design: m + n ≤ order), or no such atoms.
        """
        self.require_derivative(2, "the Hessian")
        one_geometry("the Hessian", positions)
        prepared, positions, around = self._entrance.checked(positions, cell, pbc, numbers)
        atoms = None if moving is None else chosen_atoms(moving, prepared.atoms)
        slots = prepared.moving(atoms)
        rows = chunk_size(prepared.bytes_per_gradient(positions, around), memory)
        rows = min(rows, positions.size if slots is None else 3 * len(slots))
        with doubled():
            arguments = (prepared.leaves, prepared.numbers, positions, *around, slots)
            hessian = np.array(prepared.functions.hessian(*arguments, rows_at_once=rows))
        self._entrance.require_answer(hessian)
        return hessian

    def hessian_vector_product(
        self,
        positions: Positions,
        vectors: Vectors,
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
    ) -> np.ndarray:
        """Products H·v of the Hessian with vectors, without the Hessian: the gradient differentiated along v.

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            vectors: shape (n, 3), or (k, n, 3) for several.
        Returns:
            eV/Å² times the unit of the vectors, in their shape.
        Raises:
            ValueError: the kernel is not smooth enough for a Hessian, or no such shapes.
        """
        self.require_derivative(2, "the Hessian")
        one_geometry("the Hessian", positions)
        prepared, positions, around = self._entrance.checked(positions, cell, pbc, numbers)
        directions = displacements("vectors", vectors, (prepared.atoms, 3), (2, 3))
        sets = directions.reshape(-1, 1, prepared.atoms, 3)
        products = np.empty((len(sets), prepared.atoms, 3))
        for piece, gradients in self._entrance.gradients_along(prepared, positions, around, sets, memory):
            products[piece] = gradients
        return products.reshape(directions.shape)

    def directional_derivatives(
        self,
        positions: Positions,
        directions: Float[np.ndarray | jax.Array, "c order n 3"],
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
    ) -> np.ndarray:
        """Mixed derivatives of the energy along straight lines, one for each of c sets of directions.

            D^m E [d_1, …, d_m] = ∂^m E(x + Σ_i t_i d_i)/∂t_1…∂t_m at t = 0

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            directions: shape (c, order, n, 3).
        Returns:
            shape (c,), eV when the t_i are numbers and the directions in Å.
        Raises:
            ValueError: the kernel does not have derivatives of this order, or no such shapes.
        """
        one_geometry("a derivative along directions", positions)
        directions = displacements("directions", directions, np.shape(positions), (4,))
        self.require_derivative(directions.shape[1], f"the derivative of order {directions.shape[1]}")
        prepared, positions, around = self._entrance.checked(positions, cell, pbc, numbers)
        last, sets = directions[:, -1], directions[:, :-1]
        derivatives = np.empty(len(sets))
        for piece, gradients in self._entrance.gradients_along(prepared, positions, around, sets, memory):
            derivatives[piece] = np.einsum("cna,cna->c", gradients, last[piece])
        return derivatives

    def force_constants(
        self,
        positions: Positions,
        directions: Float[np.ndarray | jax.Array, "k n 3"],
        order: int,
        cell=None,
        pbc=None,
        numbers=None,
        memory: int = HESSIAN_MEMORY,
    ) -> np.ndarray:
        """Force constants along directions, such as normal modes: quadratic, cubic or quartic.

            Φ_ij… = D^order E [d_i, d_j, …]

        Of every unordered choice of order − 1 directions the derivative of the gradient is taken once.

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            directions: shape (k, n, 3).
            order: 2, 3 or 4.
        Returns:
            symmetric tensor of shape (k,)*order; eV when the directions are in Å.
        Raises:
            ValueError: another order, one that the kernel does not have (the message names kernels that do), or no such
                shapes.
        """
        if order not in (2, 3, 4):
            raise ValueError(f"order={order} must be 2, 3 or 4; directional_derivatives takes any")
        one_geometry("force constants", positions)
        self.require_derivative(order, f"a force constant of order {order}")
        directions = displacements("directions", directions, np.shape(positions), (3,))
        prepared, positions, around = self._entrance.checked(positions, cell, pbc, numbers)
        chosen = unordered_choices(len(directions), order - 1)
        contracted = np.empty((len(chosen), len(directions)))
        for piece, gradients in self._entrance.gradients_along(prepared, positions, around, directions[chosen], memory):
            contracted[piece] = np.tensordot(gradients, directions, axes=((1, 2), (1, 2)))
        return symmetric_tensor(chosen, contracted)

    def stress(self, positions: Float[np.ndarray | jax.Array, "n 3"], cell, pbc=None, numbers=None) -> np.ndarray:
        """Stress ∂E/∂ε/V, eV/Å³, shape (3, 3), tension positive; positions and cell deform by 1 + ε.

        V is the volume of the cell as it is given. Of slabs and wires it holds the vacuum, so that V times the stress does
        not depend on the vectors of directions that are not periodic; nor does the energy.

        Raises:
            ValueError: no stress is defined: the descriptor takes no cell, no direction is periodic, or the volume is zero.
        """
        return self._stress(positions, cell, pbc, numbers)[2]

    def summed(self, frames: LabelledFrames) -> Summed | None:
        """Energies and first derivatives of frames of any compositions at once, of models that are sums over environments; None
        of other models, and where a frame is a small molecule, which is quicker as a whole."""
        if not self.model.sees_alone or not all(wants_list(len(b.numbers), b.pbc.any(axis=0)) for b in frames.batches):
            return None
        return self._entrance.environmental.summed(frames.batches)

    def energy_forces_and_stress(
        self, positions: Float[np.ndarray | jax.Array, "n 3"], cell, pbc=None, numbers=None
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Energy, forces and stress of one geometry: of models that are sums over environments from one reverse pass.

        Raises:
            ValueError: no stress is defined, as for `stress`.
        """
        energy, forces, stress = self._stress(positions, cell, pbc, numbers)
        if forces is None:
            energy, forces = self.energy_and_forces(positions, cell, pbc, numbers)
        return energy, forces, stress

    def _stress(self, positions, cell, pbc, numbers) -> tuple[float | None, np.ndarray | None, np.ndarray]:
        """Stress, with energy and forces where they come with it."""
        one_geometry("the stress", positions)
        self._entrance.require_cell("stress")
        _, _, cells, periodic = self._entrance.located(positions, cell, pbc, numbers)
        require_strainable("stress", cells[0], periodic[0])
        if not volume(cells[0]):
            raise ValueError(
                f"cell: its volume is zero, so there is no stress; give three cell vectors as rows, Å, received {np.asarray(cell).tolist()}"
            )
        if (summed := self._entrance.summed(positions, cell, pbc, numbers)) is not None:
            return float(summed.energies[0]), -summed.gradients, summed.strains[0] / volume(cells[0])
        prepared, _, around = self._entrance.checked(positions, cell, pbc, numbers)
        return (
            None,
            None,
            self._entrance.applied(STRESS, prepared, positions, around, (np.asarray(cell, dtype=np.float64),)),
        )

    def apply(
        self,
        operator: Operator,
        positions: Float[np.ndarray | jax.Array, "n 3"],
        cell=None,
        pbc=None,
        numbers=None,
        arguments: tuple = (),
    ) -> np.ndarray:
        """A label operator of the energy, L E, in the shape that its function gives: what the model says of such a label.

        Arguments:
            operator: one of `mlff.operators`, or a user's own.
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
            arguments: what the operator takes beside the energy and the positions.
        Raises:
            ValueError: it takes a strain, and there is no cell to deform; a derivative that the energy does not have.
        """
        one_geometry(operator.name, positions)
        if operator in _WRITTEN_OUT:
            return np.asarray(_WRITTEN_OUT[operator](self, (positions, cell, pbc, numbers), *arguments))
        given = tuple(np.asarray(argument)[None] for argument in arguments)
        self._require_order(operator, coordinates(positions)[None], given)
        if operator.strain:
            prepared, _, around = self._entrance.strainable(operator.name, positions, cell, pbc, numbers)
        else:
            prepared, _, around = self._entrance.checked(positions, cell, pbc, numbers)
        return self._entrance.applied(operator, prepared, positions, around, arguments)

    def strain_derivatives(
        self, positions: Float[np.ndarray | jax.Array, "n 3"], cell, pbc=None, numbers=None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Second derivatives of the energy with respect to strain, and to strain and positions.

        The symmetric strain ε deforms positions and cell by 1 + ε; its components η are in Voigt order xx yy zz yz xz xy,
        with engineering shears 2 ε_yz, 2 ε_xz, 2 ε_xy. Displacements of atoms deform with the cell.

        Returns:
            ∂²E/∂η∂η, eV, shape (6, 6); ∂²E/∂η∂x, eV/Å, shape (6, n, 3).
        Raises:
            ValueError: the descriptor takes no cell, no direction is periodic, or the kernel is not smooth enough.
        """
        self.require_derivative(2, "the second derivative by strain")
        prepared, positions, around = self._entrance.strainable("strain", positions, cell, pbc, numbers)
        with doubled():
            leaves = prepared.leaves, prepared.numbers
            pure, mixed = map(np.array, prepared.functions.strain_derivatives(*leaves, positions, *around))
        self._entrance.require_answer(pure)
        return pure, prepared.of_atoms(mixed)

    def training_distance(
        self, positions: Float[np.ndarray | jax.Array, "n 3"], cell=None, pbc=None, numbers=None
    ) -> float:
        """How far a geometry lies from the training frames, in units of how far these lie from each other.

        About 0.5 to 1.3 for frames like those; the force field guesses where it is larger (see `mlff.potentials.coverage`). NaN
        for a potential that has no training frames.

        Arguments:
            positions: shape (n, 3), Å; the others as for `energy_and_forces`.
        Raises:
            ValueError: as `energy_and_forces`.
        """
        one_geometry("the distance from the training frames", positions)
        if self._entrance.spacings is None:
            self._entrance.located(positions, cell, pbc, numbers)
            return np.nan
        if self.model.sees_alone:
            prepared, x, cells, periodic = self._entrance.located(positions, cell, pbc, numbers)
            if wants_list(prepared.atoms, periodic.any(axis=0)):
                return self._entrance.environmental.training_distance(self._entrance.batch(x, cells, periodic, numbers))
        prepared, positions, around = self._entrance.checked(positions, cell, pbc, numbers)
        with doubled():
            arguments = (prepared.leaves, self._entrance.spacings, positions, prepared.numbers, *around)
            return float(prepared.functions.training_distance(*arguments))

    def std(
        self, operator: str | Operator, positions: Positions, cell=None, pbc=None, numbers=None, arguments: tuple = ()
    ) -> float | np.ndarray:
        """Standard deviation of labels under the posterior of the fit: how far the truth lies from what the model says.

            force_field.std("forces", positions)      # eV/Å, the shape of the positions

        Arguments:
            operator: "energy", "forces", "stress", "hessian", …, or an `Operator` of your own, of at most two derivatives.
            positions: shape (n, 3), or (m, n, 3) for a batch, Å; cell, pbc and numbers as for `energy_and_forces`.
            arguments: what the operator takes beside energy, positions, cell and numbers: the vectors of "hessian_products".
        Returns:
            in the unit of the operator; a float, or the shape of its answers, with a leading axis m for a batch. Energies are
            not known at all, infinity, where the training frames have none; their differences are (`covariance`).
        Raises:
            ValueError: the force field was fitted without posterior=True, or the kernel lacks such derivatives.
        """
        operator = find_operator(operator)
        frames, shape = self.asked(operator, positions, cell, pbc, numbers, arguments)
        found = []
        for i in frames.index:
            covariance = self.posterior.covariance(operator, frames.take([i]))
            found.append(np.sqrt(np.maximum(np.diagonal(covariance), 0.0)).reshape(shape))
        if operator == ENERGY and not self._knows_energies:
            found = [np.full_like(each, np.inf) for each in found]
        found = np.stack(found) if np.ndim(positions) == 3 else found[0]
        stds = self.calibrated(operator, found, committee=isinstance(self.posterior, Committee))
        return float(stds) if stds.ndim == 0 else stds

    def calibrated(self, operator: Operator, stds: np.ndarray | float, committee: bool = False) -> np.ndarray | float:
        """Standard deviations of the posterior or its committee, times what frames left out say that they are too small by."""
        return stds if self.calibration is None else self.calibration.scaled(operator.name, stds, committee)

    def covariance(
        self, operator: str | Operator, positions: Positions, cell=None, pbc=None, numbers=None, arguments: tuple = ()
    ) -> np.ndarray:
        """Covariance of labels under the posterior of the fit, of all geometries of a batch with each other.

        The error bar of a difference of energies is that of their covariance, c₀₀ + c₁₁ − 2c₀₁, which is much less than that of
        either energy: barriers, reaction energies.

        Arguments:
            as of `std`.
        Returns:
            the unit of the operator squared, shape (k, k) of all k answers, geometry by geometry.
        Raises:
            ValueError: as `std`.
        """
        operator = find_operator(operator)
        frames, _ = self.asked(operator, positions, cell, pbc, numbers, arguments)
        return self._factor**2 * self.posterior.covariance(operator, frames)

    def sample(self, seed) -> ForceField:
        """A force field drawn from the posterior of the fit, of a seed: what else the labels would have allowed.

        Whatever follows from it (a relaxed geometry, a barrier, a spectrum) is a sample of what follows from the truth.

        Raises:
            ValueError: the force field was fitted without posterior=True, or its kernel cannot be drawn from.
        """
        self._require_posterior()
        seed = checked_seed(seed)
        model = PotentialSum((self.model, self.posterior.deviation(seed).scaled(self._factor)))
        return ForceField(model, self.numbers, None, {**self.record, "sample": seed})

    def asked(
        self, operator: Operator, positions, cell, pbc, numbers, arguments
    ) -> tuple[LabelledFrames, tuple[int, ...]]:
        """Geometries that labels are asked of, and the shape of these labels."""
        self._require_posterior()
        _, x, cells, periodic = self._entrance.located(positions, cell, pbc, numbers)
        self._entrance.require_finite(x)
        if operator.strain:
            self._entrance.require_cell(operator.name)
        x = x.reshape(-1, *x.shape[-2:])
        if not len(x):
            raise ValueError("positions: there is no geometry; give shape (n, 3), or (m, n, 3) with m from 1")
        atomic = np.asarray(self.numbers if numbers is None else numbers, dtype=np.int32)
        frames = geometries(operator, x, atomic, cells, periodic, arguments)
        first = frames.take([0]).batches[0]
        self._require_order(operator, first.positions, arguments_of(first, operator))
        return frames, answer_shape(operator, frames)

    def _require_order(self, operator: Operator, positions: np.ndarray, arguments: tuple) -> None:
        """Refuse an operator that takes derivatives which the energy lacks; its order is found out once for a shape of geometries.

        Arguments:
            positions: of one geometry, (1, n, 3); arguments: with the same leading axis.
        """
        shape = (operator, positions.shape[1:])
        if shape not in self._orders:
            self._orders[shape] = order_of(operator, positions, arguments, highest=None)
        self.require_derivative(self._orders[shape], f"{operator.name} of the model")

    def energy_and_forces_std(
        self, positions: Positions, cell=None, pbc=None, numbers=None
    ) -> tuple[float, np.ndarray]:
        """Standard deviations of energy and forces of one geometry from a committee: what every step of a simulation can ask.

        They follow from a few samples, and are themselves uncertain by a quarter (8 members); `std` of a force field that was
        just fitted is exact, at the cost of n² multiply-adds a label.

        Returns:
            eV; eV/Å, shape (n, 3).
        Raises:
            ValueError: as `std`.
        """
        self._require_posterior()
        one_geometry("a standard deviation", positions)
        prepared, x, around = self._committee_entrance.checked(positions, cell, pbc, numbers)
        energies, forces = self.committee.energies_and_forces(prepared, x, around)
        stds = self.committee.std(energies) if self._knows_energies else np.inf, self.committee.std(forces)
        energy, forces = (self.calibrated(*pair, committee=True) for pair in zip((ENERGY, FORCES), stds, strict=True))
        return float(energy), forces

    @functools.cached_property
    def committee(self) -> Committee | None:
        """A few samples of the posterior: what model files hold of it; None without a posterior."""
        if self.posterior is None or isinstance(self.posterior, Committee):
            return self.posterior
        return Committee.of(self.posterior.members(MEMBERS, 0))

    @functools.cached_property
    def _committee_entrance(self) -> Entrance:
        """Into the first member, for the preparations that all share."""
        return self._into(self.committee.shared)

    @property
    def _knows_energies(self) -> bool:
        """Whether the frames of the fit had energies, so that the constant in its own is known."""
        training = self.record.get("training")
        return not isinstance(training, dict) or training.get("energy_mae") is not None

    @property
    def _factor(self) -> float:
        """What standard deviations of labels without a table are multiplied by."""
        return 1.0 if self.calibration is None else self.calibration.factor

    def _require_posterior(self) -> None:
        if self.posterior is None:
            raise ValueError(WITHOUT)

    def require_derivative(self, order: int, what: str) -> None:
        """Refuse a derivative of the energy that does not exist everywhere.

        Raises:
            ValueError: naming `what`, and kernels that have it.
        """
        self.model.require_derivative(order, what)

    def save(self, path) -> None:
        """Write the model file, whole or not at all; `mlff.load` reads it."""
        from mlff.potentials import model_files as archive

        archive.save(self, path)

    def export(self, path, numbers=None) -> None:
        """Write energy, forces and Hessian of molecules as one file that runs without the descriptor's source.

        `mlff.load_export(path, trusted=True)` reads it, for as long as JAX promises to (six months): a compiled program is code.
        The model file that `save` writes is the one to keep.

        Arguments:
            path: of the file, written whole or not at all.
            numbers: atomic numbers to export for, shape (n,), where it was trained on several compositions.
        Raises:
            ValueError: periodic, or no atomic numbers are known, or ones that it cannot take.
        """
        from mlff.potentials import exported as export

        numbers = self.numbers if numbers is None else self._entrance.known(numbers)
        export.save(self, None if numbers is None else np.asarray(numbers, dtype=np.int32), path)

    @functools.cached_property
    def _entrance(self) -> Entrance:
        return self._into(self.model)

    def _into(self, model: Potential) -> Entrance:
        """Of a potential for the same atoms."""
        return Entrance(model, self.numbers, bool(self.record.get("periodic")))

    @functools.cached_property
    def _orders(self) -> dict[tuple, int]:
        """Of derivative, by operator and shape of the positions."""
        return {}

    def __getstate__(self) -> dict:
        """Without compiled functions, which another process makes anew."""
        made_anew = ("_entrance", "_committee_entrance", "_orders")
        return {name: value for name, value in self.__dict__.items() if name not in made_anew}


# what has a compiled path of its own, by operator: (force field, geometry, arguments of the operator) → labels
_WRITTEN_OUT: dict[Operator, Callable] = {
    ENERGY: lambda force_field, where: force_field.energy(*where),
    FORCES: lambda force_field, where: force_field.forces(*where),
    STRESS: lambda force_field, where, cell: force_field.stress(where[0], cell, *where[2:]),
    HESSIAN: lambda force_field, where: force_field.hessian(*where),
    HESSIAN_PRODUCTS: lambda force_field, where, vectors: force_field.hessian_vector_product(
        where[0], vectors, *where[1:]
    ),
}
