"""What a force field may be asked: checks of atoms, geometries and directions, each with the remedy."""

from __future__ import annotations

import numpy as np

from mlff.potentials.record import records_of
from mlff.potentials.reference import references
from mlff.units import formula, symbols


def require_atoms(force_field, numbers: np.ndarray, where: str) -> None:
    """Refuse atoms that a force field cannot take: for local kernels elements that it does not know, else any other
    number, kind or order of atoms.

    Raises:
        ValueError: naming both.
    """
    if not force_field.transferable:
        require_same_order(force_field.numbers, numbers, where)
        return
    if force_field.model.elements is not None:
        require_elements(force_field.model.elements, numbers, where)


def require_charge(force_field, numbers: np.ndarray, charge: float | None, where: str) -> None:
    """Refuse a total charge that is stated and is not that of a method among the terms, nor that of the training frames of the same
    composition, neutral ones unless they stated another. A local kernel may be asked for compositions that it has not seen, or of which
    no frame stated a charge; of these nothing is known, but for the composition of the frame that simulations start from.

    Raises:
        ValueError: naming both.
    """
    if charge is None:  # at once, as a calculator asks at every step
        return
    kind = formula(numbers)
    records = [record for record in records_of(force_field.record) if record.get("charges") is not None]
    methods = {float(method.charge) for method in references(force_field.model) if method.of_one_charge}
    trained = {record["charges"][kind] for record in records if kind in record["charges"]}
    starts = [np.asarray(record["geometry_numbers"]) for record in records if "geometry_numbers" in record]
    seen = not force_field.transferable or kind in map(formula, starts)
    unstated = bool(records) and not methods and not trained and seen
    for known, of in (({0.0} if unstated else trained, "the training frames had"), (methods, "the method has")):
        if wrong := known - {charge}:
            as_neutral = ", as none of them stated another" if unstated else ""
            raise ValueError(
                f"{where} the total charge {charge:+g}, {of} {min(wrong):+g}{as_neutral}; a force field does not see charges: take one "
                "that was fitted to frames of this charge, or mend what is stated"
            )


def require_elements(known, numbers: np.ndarray, where: str) -> None:
    """Refuse atoms of elements that a force field does not know."""
    if unknown := sorted({int(z) for z in numbers} - set(known)):
        raise ValueError(
            f"{where}: the force field knows {', '.join(symbols(known))}, not {', '.join(symbols(unknown))}; "
            "fit one with frames that hold it"
        )


def require_same_order(expected: np.ndarray, numbers: np.ndarray, where: str) -> None:
    """Refuse atoms that differ from the expected ones in number, kind or order."""
    if not np.array_equal(numbers, expected):
        ours, theirs = "".join(symbols(expected)), "".join(symbols(numbers))
        raise ValueError(
            f"{where}: the force field is for {ours}, in this order of atoms, received {theirs}; "
            "reorder the atoms, or fit a force field for them"
        )


def coordinates(positions) -> np.ndarray:
    """Positions as an array of float64.

    Raises:
        ValueError: no numbers, such as the atoms themselves.
    """
    try:
        return np.asarray(positions, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"positions: expected coordinates, shape (n, 3), Å, received {type(positions).__name__}; give atoms.positions"
        ) from error


def one_geometry(what: str, positions) -> None:
    """Refuse a batch of geometries where one is taken."""
    if np.ndim(positions) != 2:
        raise ValueError(f"positions: {what} takes one geometry, shape (n, 3), not a batch")


def chosen_atoms(moving, count: int) -> np.ndarray:
    """Indices of different atoms below `count`, checked."""
    atoms = np.asarray(moving)
    if atoms.ndim != 1 or not len(atoms) or not np.issubdtype(atoms.dtype, np.integer):
        raise ValueError(f"moving: expected indices of atoms, a list of integers, received {moving!r}")
    if atoms.min() < 0 or atoms.max() >= count or len(np.unique(atoms)) < len(atoms):
        raise ValueError(f"moving: expected different atoms from 0 to {count - 1}, received {atoms.tolist()}")
    return atoms


def displacements(name: str, directions, shape: tuple, dimensions: tuple[int, ...]) -> np.ndarray:
    """As an array of displacements of all atoms, with leading axes."""
    directions = np.asarray(directions, dtype=np.float64)
    if directions.ndim not in dimensions or directions.shape[-2:] != tuple(shape) or 0 in directions.shape:
        expected = " or ".join(f"({'…, ' if d > 3 else 'k, ' if d == 3 else ''}{shape[0]}, 3)" for d in dimensions)
        raise ValueError(f"{name}: expected shape {expected}, received {directions.shape}")
    if not np.isfinite(directions).all():
        raise ValueError(f"{name}: not all finite; give displacements of atoms")
    return directions
