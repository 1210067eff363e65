"""Where an ASE `Atoms` object holds its labels, and in which form: a key that is named, a REF_ key, a calculator's result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from ase import Atoms

from mlff.data.frames import LABELS, is_charge

PREFIX = "REF_"
VIRIAL = "virial"  # −V σ, eV; read as stress
GRADIENT = "grad"  # −F; read as forces where such a key is named
VIRIALS = (VIRIAL, "virials")
RESULTS = ("energy", "forces", "stress", "hessian")  # of calculators
REFERENCE, RESULT, NAMED = "REF_ keys", "calculator results", "a key that is named"
AGREEMENT = 1e-3  # of the largest number, between two statements of one label


class Label(NamedTuple):
    """One label: its value in the units of the file, what it comes from, and the keys that hold it."""

    value: np.ndarray
    origin: str
    keys: tuple[str, ...]


def scales(energy: float, length: float) -> dict[str, float]:
    """Factors to eV and Å of every label, from those of energy and length; vectors are directions without a unit."""
    second = energy / length**2
    return {
        "energy": energy, "forces": energy / length, "stress": energy / length**3, "hessian": second,
        "hessian_products": second, "hessian_product_vectors": 1.0, "curvatures": second, "curvature_vectors": 1.0,
    }  # fmt: skip


def find_labels(where: str, atoms: Atoms, keys: Mapping[str, str]) -> tuple[dict[str, Label], dict[str, str]]:
    """Find the labels of a frame, by name, and say of those that cannot be trusted why not.

    A key that is named wins over `REF_energy`, `REF_forces`, … (or `ref_…`), and these over a calculator's results. Stress may be
    given as virial instead, σ = −W/V, 3×3 or as xx yy zz yz xz xy.

    Raises:
        ValueError: beginning with `where`; a label is no array of real numbers, or of another shape.
    """
    labels, doubts = {}, {}
    for name in LABELS:
        if name != "stress" and (label := _first(atoms, name, keys.get(name))):
            value = _shaped(where, name, label.value, len(atoms))
            labels[name] = label._replace(value=sign(name, keys) * value)
    stresses = _stresses(where, atoms, keys)
    if stresses:
        labels["stress"] = stresses[0]
        doubts |= _doubtful_stress(where, atoms, stresses)
    return labels, doubts | _foreign(where, atoms, labels)


def operator_labels(atoms: Atoms) -> dict[str, Label]:
    """The labels of operators that the user defined, which stand under REF_ and their names."""
    labels = {}
    for held in (atoms.info, atoms.arrays):
        for key, value in held.items():
            name = key.removeprefix(PREFIX)
            usual = name in LABELS or name in VIRIALS or is_charge(name)
            if key.startswith(PREFIX) and not usual and np.asarray(value).dtype.kind in "fiu" and np.size(value):
                labels[name] = Label(np.asarray(value, dtype=np.float64), REFERENCE, (key,))
    return labels


def without_labels(atoms: Atoms, labels: Iterable[Label]) -> Atoms:
    """A copy of the atoms from which the labels are removed."""
    unlabelled = atoms.copy()
    for key in {key for label in labels for key in label.keys}:
        unlabelled.info.pop(key, None)
        unlabelled.arrays.pop(key, None)
    return unlabelled


def by_convention(atoms: Atoms, key: str) -> bool:
    """Whether a key is one of those that are in eV and Å where nothing else is said."""
    return key.startswith(PREFIX) or key in VIRIALS or key in getattr(atoms.calc, "results", {})


def _first(atoms: Atoms, name: str, key: str | None) -> Label | None:
    """The value of the first place that has one."""
    if key:
        return _held(atoms, key, NAMED) or _result(atoms, key, NAMED)
    reference = f"{PREFIX}{name}"
    label = _held(atoms, reference, REFERENCE) or _held(atoms, reference.lower(), REFERENCE)
    return label or (_result(atoms, name, RESULT) if name in RESULTS else None)


def _held(atoms: Atoms, key: str, origin: str) -> Label | None:
    for held in (atoms.info, atoms.arrays):
        if key in held:
            return Label(held[key], origin, (key,))
    return None


def _result(atoms: Atoms, key: str, origin: str) -> Label | None:
    value = getattr(atoms.calc, "results", {}).get(key)
    return None if value is None else Label(value, origin, ())


# -- stress --------------------------------------------------------------------------------------------------------


def _stresses(where: str, atoms: Atoms, keys: Mapping[str, str]) -> list[Label]:
    """Statements of the stress that count alike; NaN where a virial has no volume."""
    if "stress" in keys or VIRIAL in keys:
        key = keys.get("stress", keys.get(VIRIAL))
        virial = "stress" not in keys or is_virial(key)
        named = _first(atoms, "stress", key)
        return [_as_stress(where, atoms, named, virial)] if named else []
    for origin, places in _usual_places(atoms):
        stresses = [_as_stress(where, atoms, label, virial) for label, virial in places if label]
        if stresses:
            return [label._replace(origin=origin) for label in stresses]
    return []


def _usual_places(atoms: Atoms) -> list[tuple[str, list[tuple[Label | None, bool]]]]:
    names = [f"{PREFIX}{name}" for name in ("stress", *VIRIALS)]
    reference = [(_held(atoms, n, REFERENCE) or _held(atoms, n.lower(), REFERENCE), is_virial(n)) for n in names]
    results = [(_result(atoms, "stress", RESULT), False)]
    results += [(_held(atoms, n, RESULT) or _result(atoms, n, RESULT), True) for n in VIRIALS if n not in atoms.arrays]
    return [(REFERENCE, reference), (RESULT, results)]


def sign(name: str, keys: Mapping[str, str]) -> float:
    """−1 for forces whose key is named and says that it holds gradients, F = −∇E; else 1."""
    return -1.0 if name == "forces" and GRADIENT in keys.get(name, "").lower() else 1.0


def is_virial(key: str) -> bool:
    """Whether the name of a key says that it holds a virial."""
    return VIRIAL in key.lower() and "stress" not in key.lower()


def _as_stress(where: str, atoms: Atoms, label: Label, virial: bool) -> Label:
    value = _shaped(where, VIRIAL if virial else "stress", label.value, len(atoms))
    volume = abs(np.linalg.det(atoms.cell.array))
    if virial:
        value = -value / volume if volume > 0 else np.full((3, 3), np.nan)
    return label._replace(value=value)


def _doubtful_stress(where: str, atoms: Atoms, stresses: list[Label]) -> dict[str, str]:
    if not abs(np.linalg.det(atoms.cell.array)) > 0:
        if np.isnan(stresses[0].value).all():
            return {"stress": f"{where}: has a virial, but no cell whose volume makes a stress of it"}
        return {}
    largest = max(np.abs(label.value).max() for label in stresses)
    if all(np.abs(label.value - stresses[0].value).max() <= AGREEMENT * largest for label in stresses):
        return {}
    names = [", ".join(label.keys) or "stress" for label in stresses]
    return {
        "stress": f"{where}: {' and '.join(names)} do not agree (a virial is −V times the stress, eV); name the one that is "
        f"right, keys={{'stress': '{names[0]}'}}"
    }


# -- one method -----------------------------------------------------------------------------------------------------


def _foreign(where: str, atoms: Atoms, labels: Mapping[str, Label]) -> dict[str, str]:
    """Doubts about results of a calculator that contradict a REF_ key of the same frame: they are another method's."""
    results = getattr(atoms.calc, "results", {})
    for name, label in labels.items():
        if label.origin == REFERENCE and name in results:
            result = _shaped(where, name, results[name], len(atoms))
            if not np.allclose(result, label.value, rtol=AGREEMENT, atol=1e-6, equal_nan=True):
                return {
                    other: f"{where}: {other} would come from a calculator whose {name} is not {label.keys[0]}, so from another "
                    f"method; name its key if it is the right one, keys={{'{other}': '{other}'}}"
                    for other, doubtful in labels.items()
                    if doubtful.origin == RESULT
                }
    return {}


def _shaped(where: str, name: str, value, atoms: int) -> np.ndarray:
    """A label as an array of its own shape; Voigt's six numbers and rows of a matrix one after the other become matrices."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{where}: {name} is no array of real numbers ({value!r:.60})")
    array = array.astype(np.float64)
    expected = {
        "energy": (), "forces": (atoms, 3), "stress": (3, 3), VIRIAL: (3, 3), "hessian": (3 * atoms, 3 * atoms),
        "hessian_products": (-1, atoms, 3), "hessian_product_vectors": (-1, atoms, 3), "curvatures": (-1,),
        "curvature_vectors": (-1, 2, atoms, 3),
    }[name]  # fmt: skip
    if name in ("stress", VIRIAL) and array.shape == (6,):
        xx, yy, zz, yz, xz, xy = array
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    flat = {"energy": (1,), "stress": (9,), VIRIAL: (9,), "hessian": ((3 * atoms) ** 2,), "curvatures": ()}
    fits = array.ndim == len(expected) and all(b in (a, -1) for a, b in zip(array.shape, expected, strict=True))
    if fits or array.shape == flat.get(name):
        return array.reshape(expected)
    shape = str(expected).replace("-1", "k")
    raise ValueError(f"{where}: {name} has shape {array.shape}, expected {shape}")
