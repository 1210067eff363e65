"""Force fields that sGDML trained: its model files, read into this library's expansion.

With inverse distances φ, training frames k, permutations p ∈ P of identical atoms and the standard deviation w of its labels,
sGDML predicts

    E(x) = c + w Σ_k Σ_p [ 5/(3σ²) (1 + √5 d/σ) e^{−√5 d/σ} (φ(x) − φ(p x_k))·τ_pk + α_k f(d²/σ²) ],   d = |φ(x) − φ(p x_k)|

where f is the Matérn-5/2 function and τ_pk the stored weights, rearranged by p. As f′(s) = −5/6 (1 + √(5s)) e^{−√(5s)}, this
is our expansion with the length scale σ, tangents w τ/σ and value weights w α.

Source: Chmiela et al., Nat. Commun. 9, 3887 (2018), doi 10.1038/s41467-018-06169-2;
Chmiela et al., Comput. Phys. Commun. 240, 38 (2019), doi 10.1016/j.cpc.2019.02.007.
"""

from __future__ import annotations

import pathlib
import zipfile
import zlib

import numpy as np

from descriptors import inverse_distances
from mlff.data.neighbors import REACH
from mlff.data.permutations import Permutations
from mlff.kernels.kernels import GlobalKernel
from mlff.kernels.radial import Matern52
from mlff.potentials.expansion import Channel, Expansion, Part
from mlff.potentials.force_field import ForceField
from mlff.potentials.record import versions
from mlff.units import agreed_units, symbols

NEEDED = ("z", "R_desc", "R_d_desc_alpha", "perms", "tril_perms_lin", "sig", "std", "c", "use_E")
OPTIONAL = (
    "lam", "alphas_E", "e_unit", "r_unit", "idxs_train", "md5_train", "code_version", "dataset_name", "dataset_theory",
)  # fmt: skip
KINDS = {"d": "a data set", "t": "a training task"}
REMEDY = "copy it again, or train it again with sgdml 1.0"
LARGE = 16 * 2**20  # bytes that any array may take
SHRINKAGE = 20  # of larger ones when they are compressed, at most; of files of zeros it is 1000
EMBEDDING_TOLERANCE = 1e-4  # of the distances: what those of a real geometry keep to, even in single precision


def load_sgdml(path, units: str | None = None) -> ForceField:
    """Read a model file that sGDML wrote (`sgdml` 1.0, npz), for molecules; nothing in it is unpickled.

    Arguments:
        path: the file.
        units: energy unit, or energy/length, of what the file holds, "kcal/mol", "hartree/bohr"; without it they are what
            the file says (`e_unit`, `r_unit`).
    Returns:
        the force field with the same energies and forces, in eV and eV/Å. Its `record` holds what the file tells; training
        errors and time are None, and the geometry is that of a training frame up to rotation and reflection.
    Raises:
        FileNotFoundError: no such file.
        ValueError: no model of sGDML, a periodic one, damaged or incomplete, or its units are not stated.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name}: is no npz file; give the model file that sgdml wrote after training")
    stored = _read(path)
    numbers = _numbers(path, stored["z"])
    energy_unit, length_unit, said = _units(path, stored, units)
    features, tangents = _weights(path, stored, len(numbers))
    group = _group(path, stored, numbers)
    width = _number(path, "std", stored["std"], positive=True)
    sigma = _number(path, "sig", stored["sig"], positive=True)
    values = stored.get("alphas_E")
    values = np.zeros(len(features)) if values is None else _array(path, "alphas_E", values, (len(features),))
    kernel = GlobalKernel(
        inverse_distances, Matern52(lengthscale=sigma / length_unit), group, len(group) * (width * energy_unit) ** 2
    )
    channel = Channel.build(
        features / sigma, energy_unit * width * tangents / sigma, energy_unit * width * values, (features.shape[1],)
    )
    images = None if len(group) == 1 else _rearranged(group.indices).astype(np.int32)
    constant = energy_unit * _number(path, "c", stored["c"])
    return ForceField(
        model=Expansion((Part(kernel.bare(), (channel,), images, channel.points.shape[1:]),), np.array([constant])),
        numbers=numbers,
        kernel=kernel,
        record={
            **_facts(path, stored, len(features), len(numbers)),
            "units": said,
            "noise": _noise(path, stored, width * energy_unit, length_unit),
            "closest": _closest(features / length_unit, numbers),
            **_geometry(path, features / length_unit, numbers),
        },
    )


# -- reading -------------------------------------------------------------------------------------------------------


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the file that are of use here, of a model for molecules."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return _model(path, archive)
    except (OSError, EOFError, TypeError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path.name}: cannot be read as an npz file ({error}); {REMEDY}") from error


def _model(path: pathlib.Path, archive) -> dict[str, np.ndarray]:
    names = archive.files
    kind = _text(_plain(path, archive, "type")) if "type" in names else None
    if kind != "m":
        found = KINDS.get(kind, "no file of sGDML, or none of its models")
        raise ValueError(f"{path.name}: is {found}; give the model file that sgdml wrote after training")
    if "lattice" in names:
        raise ValueError(
            f"{path.name}: is a periodic model (lattice), and only sGDML's models of molecules are read; fit one here, "
            "with a descriptor that takes cell"
        )
    if missing := [name for name in NEEDED if name not in names]:
        raise ValueError(f"{path.name}: has no {', '.join(missing)}; {REMEDY}")
    return {name: _plain(path, archive, name) for name in (*NEEDED, *OPTIONAL) if name in names}


def _plain(path: pathlib.Path, archive, name: str) -> np.ndarray:
    """One array, unless it would be far larger than the file: real weights hardly shrink when they are compressed."""
    member = archive.zip.getinfo(f"{name}.npy" if f"{name}.npy" in archive.zip.namelist() else name)
    if member.file_size > max(LARGE, SHRINKAGE * member.compress_size):
        raise ValueError(
            f"{path.name}: {name} would take {member.file_size / 2**20:.0f} MiB out of {member.compress_size / 2**20:.1f}, "
            f"which no weights do; {REMEDY}"
        )
    try:
        return archive[name]
    except ValueError as error:
        raise ValueError(
            f"{path.name}: {name} is no plain array ({error}), and nothing is unpickled; {REMEDY}"
        ) from error


def _text(value: np.ndarray) -> str:
    item = np.asarray(value).item()
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _array(path: pathlib.Path, name: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A real array of some shape, finite."""
    if value.shape != shape or value.dtype.kind not in "fiu":
        raise ValueError(f"{path.name}: {name} has shape {value.shape} of {value.dtype}, expected {shape}; {REMEDY}")
    if not np.isfinite(value).all():
        raise ValueError(f"{path.name}: {name} is not finite; {REMEDY}")
    return value.astype(np.float64)


def _number(path: pathlib.Path, name: str, value, positive: bool = False) -> float:
    number = float(_array(path, name, np.asarray(value), ()))
    if positive and not number > 0:
        raise ValueError(f"{path.name}: {name} is {number}, expected a positive number; {REMEDY}")
    return number


def _numbers(path: pathlib.Path, z: np.ndarray) -> np.ndarray:
    if z.ndim != 1 or len(z) < 2 or z.dtype.kind not in "iu" or not ((z > 0) & (z < 119)).all():
        raise ValueError(f"{path.name}: z has shape {z.shape} of {z.dtype}, expected atomic numbers; {REMEDY}")
    return z.astype(np.int32)


def _units(path: pathlib.Path, stored: dict, units: str | None) -> tuple[float, float, str]:
    """eV and Å per unit of the file, and who said so."""
    stated = {"e_unit", "r_unit"} <= set(stored)
    inside = f"{_text(stored['e_unit'])}/{_text(stored['r_unit'])}" if stated else None
    return agreed_units(path.name, units, inside)


def _weights(path: pathlib.Path, stored: dict, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and weights of the training frames, shape (m, D), in our order of pairs."""
    pairs = atoms * (atoms - 1) // 2
    frames = stored["R_desc"].shape[-1] if stored["R_desc"].ndim else 0
    features = _array(path, "R_desc", stored["R_desc"], (pairs, frames)).T
    tangents = _array(path, "R_d_desc_alpha", stored["R_d_desc_alpha"], (frames, pairs))
    if not frames or not (features > 0).all():
        raise ValueError(f"{path.name}: R_desc are no inverse distances of training frames; {REMEDY}")
    first, second = np.triu_indices(atoms, k=1)
    order = _theirs(second, first)
    return features[:, order], tangents[:, order]


# -- permutations --------------------------------------------------------------------------------------------------


def _theirs(larger: np.ndarray, smaller: np.ndarray) -> np.ndarray:
    """sGDML's number of a pair of atoms: the lower triangle (1,0), (2,0), (2,1), …"""
    return larger * (larger - 1) // 2 + smaller


def _rearranged(group: np.ndarray) -> np.ndarray:
    """Where the inverse distances of p x stand in those of x, shape (|P|, D), in our order of pairs."""
    atoms = group.shape[1]
    first, second = np.triu_indices(atoms, k=1)
    place = np.zeros((atoms, atoms), dtype=int)
    place[first, second] = place[second, first] = np.arange(len(first))
    return place[group[:, first], group[:, second]]


def _group(path: pathlib.Path, stored: dict, numbers: np.ndarray) -> Permutations:
    """The permutations, which have to be those that the file's own predictions use."""
    given = stored["perms"]
    try:
        group = Permutations.from_elements(given, numbers)
    except ValueError as error:
        raise ValueError(f"{path.name}: perms: {error}; {REMEDY}") from error
    if len(group) != len(given):
        raise ValueError(f"{path.name}: perms holds a permutation twice; {REMEDY}")
    first, second = np.tril_indices(len(numbers), k=-1)
    one, two = given[:, first], given[:, second]
    places = _theirs(np.maximum(one, two), np.minimum(one, two))
    expected = places + places.shape[1] * np.arange(len(given))[:, None]
    if not np.array_equal(stored["tril_perms_lin"], expected.ravel(order="F")):
        raise ValueError(f"{path.name}: perms and tril_perms_lin are not the same permutations; {REMEDY}")
    return group


# -- the record ----------------------------------------------------------------------------------------------------


def _facts(path: pathlib.Path, stored: dict, frames: int, atoms: int) -> dict:
    """What the file tells of how the model came to be; None for what it does not."""
    said = {name: _text(stored[name]) if name in stored else "unknown" for name in
            ("code_version", "dataset_name", "dataset_theory", "md5_train")}  # fmt: skip
    with_energies = "alphas_E" in stored
    unknown = dict.fromkeys(("energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "slope"))
    return {
        "labels": ["energy", "forces"] if with_energies else ["forces"],
        "source": f"{path.name} (sGDML's, data set {said['dataset_name']}, {said['dataset_theory']})",
        "n_train": frames,
        "rows": frames * (3 * atoms + with_energies),
        "periodic": False,
        "indices": [int(i) for i in np.ravel(stored.get("idxs_train", ()))],
        "seed": None,
        "data_hash": said["md5_train"],
        "fingerprints": [],
        "lengthscales_tried": [],
        "energy_constant": bool(stored["use_E"]),
        "fit_seconds": None,
        "training": {**unknown, "n_test": frames, "forces_mae_by_element": {}},
        "versions": {**versions(), "sgdml": said["code_version"]},
    }


def _noise(path: pathlib.Path, stored: dict, width: float, length_unit: float) -> dict[str, float]:
    """Standard deviations of the labels, eV and eV/Å: sGDML adds λ to the kernel of labels of unit variance."""
    if "lam" not in stored:
        return {}
    level = float(np.sqrt(_number(path, "lam", stored["lam"]))) * width
    return {**({"energy": level} if "alphas_E" in stored else {}), "forces": level / length_unit}


def _closest(features: np.ndarray, numbers: np.ndarray) -> dict[str, float]:
    """The smallest distance between two atoms of each pair of elements in the training frames, Å."""
    distances = 1.0 / features.max(axis=0)
    kinds = np.array(symbols(numbers))
    closest: dict[str, float] = {}
    for distance, one, two in zip(distances, *(kinds[i] for i in np.triu_indices(len(numbers), k=1)), strict=True):
        name = "-".join(sorted((one, two)))
        if distance < REACH:
            closest[name] = min(closest.get(name, np.inf), float(distance))
    return closest


def _geometry(path: pathlib.Path, features: np.ndarray, numbers: np.ndarray) -> dict:
    """Where to start a simulation: the training frame nearest to their mean, from its distances.

    B = −½ J D² J, with J = 1 − 1/n, is the matrix of scalar products of centred positions; its three largest eigenvalues
    and their vectors give them up to rotation and reflection (classical scaling, Torgerson, Psychometrika 17, 401 (1952),
    doi 10.1007/BF02288916).
    """
    nearest = int(np.argmin(np.sum((features - features.mean(axis=0)) ** 2, axis=1)))
    atoms = len(numbers)
    first, second = np.triu_indices(atoms, k=1)
    squares = np.zeros((atoms, atoms))
    squares[first, second] = squares[second, first] = features[nearest] ** -2
    centring = np.eye(atoms) - 1.0 / atoms
    values, vectors = np.linalg.eigh(-0.5 * centring @ squares @ centring)
    positions = np.zeros((atoms, 3))
    largest = slice(-1, -1 - min(3, atoms), -1)
    positions[:, : min(3, atoms)] = vectors[:, largest] * np.sqrt(np.maximum(values[largest], 0.0))
    found = np.linalg.norm(positions[first] - positions[second], axis=1)
    if not np.allclose(found * features[nearest], 1.0, atol=EMBEDDING_TOLERANCE):
        raise ValueError(f"{path.name}: R_desc are no inverse distances of {atoms} atoms in space; {REMEDY}")
    return {
        "geometry": positions.tolist(),
        "geometry_numbers": [int(z) for z in numbers],
        "geometry_cell": np.zeros((3, 3)).tolist(),
        "geometry_pbc": [False] * 3,
    }
