"""A method outside of JAX, by name or as one of ASE's calculators, as a potential: what a correction is fitted to.

It gives energies, forces and stresses, and JAX is told what they are to each other: along a displacement dx of the atoms and dc of the
cell vectors the energy changes by −F·dx + G·dc. As x and c deform by 1 + ε together, V σ = −xᵀF + cᵀG, so that

    G = ∂E/∂c at fixed atoms = c⁻ᵀ (V σ + xᵀ F)

Second derivatives are central differences of these first ones, over all of x and c, whatever is asked of them; there is no third.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from mlff.data.batches import Batch
from mlff.data.cells import volume
from mlff.data.frames import Frame
from mlff.data.methods import METHODS, calculated, named_calculator, require_electrons, require_method
from mlff.data.system import System
from mlff.kernels.surroundings import Surroundings
from mlff.potentials.potential import Potential
from mlff.potentials.sums import terms_of
from mlff.precision import Array
from mlff.units import formula

DISPLACEMENT = (
    5e-3  # Å, of central differences: of GFN2-xTB's forces they agree with those of half the step to 1e-3 eV/Å²
)
TIGHT = 0.01  # times tblite's usual thresholds: forces do not know where the iterations began, to 1e-6 eV/Å


class Reference(Potential):
    """The energy of a method outside of JAX: a baseline, or what a model is compared with.

        force_field = mlff.fit(kernel, train, ("energy", "forces"), baseline=mlff.Reference("gfn2"))
        mlff.ForceField.of(mlff.Reference(EMT())).hessian(positions)

    Energies, forces and stresses are the method's own. Hessians are central differences of forces, 6n evaluations of n atoms (of
    cells 18 more), each of a displacement of 0.005 Å; nothing has higher derivatives. One geometry is worked off after the other.
    A model file keeps a method by its name, with charge and multiplicity; not one of ASE's calculators, which `mlff.distilled`
    makes a model of.

    Attributes:
        method: "gfn2" or "gfn1" (GFN2-xTB and GFN1-xTB, by tblite), "gfnff" (by gfnff), "d3-pbe", "d4-pbe" and so on (dispersion alone, by
            dftd3 and dftd4), "emt", or one of ASE's calculators.
        charge: total charge, e, of a named method; a calculator has its own.
        multiplicity: 2S + 1, of a named method.

    Raises:
        ValueError: no such method, a charge or multiplicity that it cannot have, or a package that is missing.
    Source: Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi 10.1021/acs.jctc.8b01176 (GFN2-xTB).
    """

    narrows = False  # other programs have their own precision

    method: Any = struct.field(pytree_node=False)
    charge: int = struct.field(pytree_node=False, default=0)
    multiplicity: int = struct.field(pytree_node=False, default=1)

    def __post_init__(self):
        if not isinstance(self.method, str):
            if isinstance(self.method, type) or not hasattr(self.method, "get_potential_energy"):
                raise ValueError(
                    f"method={self.method!r:.60}: expected {', '.join(METHODS)}, or one of ASE's calculators"
                )
            if (self.charge, self.multiplicity) != (0, 1):
                raise ValueError("charge and multiplicity: state them to the calculator, and leave them out here")
        else:
            require_method(self.method, self.charge, self.multiplicity)
        _outside(self.method, self.charge, self.multiplicity)  # what cannot be had is said at once

    @property
    def _outside(self) -> Outside:
        return _outside(self.method, self.charge, self.multiplicity)

    @property
    def named(self) -> bool:
        """Whether a model file can keep it."""
        return isinstance(self.method, str)

    @property
    def of_one_charge(self) -> bool:
        """Whether it is for atoms of the total charge `charge` alone."""
        return self.named and (METHODS[self.method].charged or METHODS[self.method].neutral)

    @property
    def elements(self) -> tuple[int, ...] | None:
        return METHODS[self.method].elements if self.named else None

    @property
    def order(self) -> int:
        return 2

    @property
    def takes_cell(self) -> bool:
        return True

    @property
    def label(self) -> str:
        if not self.named:
            return type(self.method).__name__
        stated = "" if self.charge == 0 else f", charge {self.charge:+d}"
        return (
            METHODS[self.method].label
            + stated
            + ("" if self.multiplicity == 1 else f", multiplicity {self.multiplicity}")
        )

    def calculator(self):
        """One of ASE's calculators for the method, with tblite's usual thresholds: for dynamics, where it begins where it ended."""
        return named_calculator(self.method, self.charge, self.multiplicity) if self.named else self.method

    def require_frame(self, frame: Frame, source: str) -> None:
        """Refuse a frame that states another charge than the one that the method is asked for, that has not so many electrons, or is
        a slab or a wire."""
        _require_cell(self.label, frame.system.pbc[None])
        if not self.named:
            return
        charge = frame.stated_charge
        if charge is not None and charge != self.charge:
            remedy = (
                "state it and the multiplicity"
                if METHODS[self.method].charged
                else "which knows none; take another method"
            )
            raise ValueError(
                f"{source}: {formula(frame.numbers)} has the total charge {charge:+g}, the baseline is {self.label} of charge "
                f"{self.charge:+d}; {remedy}"
            )
        require_electrons(self.method, frame.numbers, self.charge, self.multiplicity)

    @property
    def failure(self) -> str | None:
        return self._outside.failure

    def surroundings(self, batch: Batch, slots: int = 0) -> Surroundings:
        """Cells alone; a method finds its own neighbours.

        Raises:
            ValueError: slabs and wires.
        """
        _require_cell(self.label, batch.pbc)
        return super().surroundings(batch, slots)

    def energy(self, positions: Float[Array, "n 3"], numbers, cell, neighbors=None) -> Float[Array, ""]:
        """Potential energy, eV, as the method has it; NaN where it fails, and `failure` says why."""
        return self._outside.energy(positions, numbers, cell)


def references(potential: Potential) -> list[Reference]:
    """The methods outside of JAX among the terms of a potential."""
    return [term for term in terms_of(potential) if isinstance(term, Reference)]


def _require_cell(label: str, pbc: np.ndarray) -> None:
    if (pbc.any(axis=1) & ~pbc.all(axis=1)).any():
        raise ValueError(
            f"pbc: {label} is asked about molecules, and crystals periodic in three directions, not about slabs and wires; "
            "make the third one periodic too, with room between the images"
        )


class Outside:
    """What is called when compiled functions ask for the energy of a method and its derivatives.

    Attributes:
        energy: (positions, numbers, cell) → energy, for JAX, twice differentiable.
        failure: why the last evaluation gave nothing, None where it did.
    """

    def __init__(self, make: Callable[[], Any], label: str, require: Callable[[np.ndarray], None]):
        self._make, self._label, self._require = make, label, require
        self._lock = threading.Lock()  # calculators hold the atoms that they were asked about last
        self._last: tuple[tuple, np.ndarray] | None = None
        self.failure: str | None = None
        self.energy = _differentiable(self)

    def first(self, positions, numbers, cell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Energy, and its derivatives by positions and cell vectors."""
        with self._lock:
            return self._evaluated(positions, numbers, cell)

    def second(self, positions, numbers, cell) -> tuple[np.ndarray]:
        """Second derivatives by positions and, of crystals, cell vectors, shape (3n + 9, 3n + 9), zero elsewhere."""
        settings = str(getattr(self._make(), "parameters", ""))  # which users may change
        key = (settings, *(part.tobytes() for part in (positions, numbers, cell)))
        with self._lock:
            if self._last is None or self._last[0] != key:  # it is asked again for every chunk of directions
                self._last = key, self._differences(positions, numbers, cell)
            return (self._last[1],)

    def _differences(self, positions, numbers, cell) -> np.ndarray:
        rows = np.concatenate([positions, cell])
        hessian = np.zeros((rows.size, rows.size))
        moved = rows.size if cell.any() else positions.size
        for k in range(moved):
            sides = []
            for step in (DISPLACEMENT, -DISPLACEMENT):
                displaced = rows.copy()
                displaced.ravel()[k] += step
                _, *slopes = self._evaluated(displaced[:-3], numbers, displaced[-3:])
                sides.append(np.concatenate(slopes).ravel())
            hessian[k] = (sides[0] - sides[1]) / (2.0 * DISPLACEMENT)
        return 0.5 * (hessian + hessian.T)

    def _evaluated(self, positions, numbers, cell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        periodic = cell.any(axis=1)
        atoms = System(positions, numbers, cell, periodic).to_ase()
        try:
            self._require(numbers)
            # anew each time: what iterates would begin where it ended before, and its answer with it
            atoms.calc = self._make()
            labels = calculated(atoms)
        except Exception as error:  # whatever a calculator raises
            said = " ".join(str(error).split())[:200]
            self.failure = said if isinstance(error, ValueError) else f"{self._label}: {type(error).__name__}, {said}"
            return np.array(np.nan), np.full(positions.shape, np.nan), np.full((3, 3), np.nan)
        self.failure = None
        forces, by_cell = labels["forces"], np.zeros((3, 3))
        if periodic.all():
            virial = volume(cell) * labels.get("stress", np.full((3, 3), np.nan))
            by_cell = np.linalg.solve(cell.T, virial + positions.T @ forces)
        return np.array(labels["energy"]), -forces, by_cell


@functools.lru_cache(maxsize=64, typed=True)
def _outside(method, charge: int, multiplicity: int) -> Outside:
    """One for each method, which compiled functions are known by."""
    if not isinstance(method, str):
        return Outside(lambda: method, type(method).__name__, lambda numbers: None)
    make = functools.partial(named_calculator, method, charge, multiplicity, TIGHT)
    make()
    return Outside(
        make, METHODS[method].label, lambda numbers: require_electrons(method, numbers, charge, multiplicity)
    )


def _differentiable(outside: Outside):
    """(positions, numbers, cell) → energy; its first derivatives come with it, so that it is asked for both at once."""

    @jax.custom_jvp
    def first(positions, numbers, cell):
        return _called(outside.first, ((), positions.shape, (3, 3)), positions, numbers, cell)

    @first.defjvp
    def _(primals, tangents):
        size = primals[0].size + 9
        (hessian,) = _called(outside.second, ((size, size),), *primals)
        energy, *slopes = first(*primals)
        step = jnp.concatenate([tangents[0], tangents[2]])
        change = (hessian @ step.ravel()).reshape(step.shape)
        return [energy, *slopes], [_along(slopes, tangents), change[:-3], change[-3:]]

    energy = jax.custom_jvp(lambda *geometry: first(*geometry)[0])

    @energy.defjvp
    def _(primals, tangents):
        value, *slopes = first(*primals)
        return value, _along(slopes, tangents)

    return energy


def _called(function, shapes, positions, numbers, cell) -> list:
    """What a function of a geometry returns, called from compiled functions.

    JAX calls it from threads of its own, where its 64-bit setting is another one and numbers would lose half their digits on the
    way. So they travel as the bits that they are.
    """

    def on_bits(positions, numbers, cell):
        x, c = (np.ascontiguousarray(bits).view(np.float64)[..., 0] for bits in (positions, cell))
        found = function(x, np.asarray(numbers), c)
        return [np.array(each, dtype=np.float64, ndmin=1)[..., None].view(np.uint32) for each in found]

    def bits_of(array):
        return jax.lax.bitcast_convert_type(array, jnp.uint32)

    wanted = [jax.ShapeDtypeStruct((*(shape or (1,)), 2), np.uint32) for shape in shapes]
    found = jax.pure_callback(on_bits, wanted, bits_of(positions), numbers, bits_of(cell), vmap_method="sequential")
    return [
        jax.lax.bitcast_convert_type(bits, jnp.float64).reshape(shape)
        for bits, shape in zip(found, shapes, strict=True)
    ]


def _along(slopes, tangents):
    """How the energy changes along a displacement of atoms and cell vectors."""
    return jnp.vdot(slopes[0], tangents[0]) + jnp.vdot(slopes[1], tangents[2])
