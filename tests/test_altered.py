"""Altered model files, signed anew: a sentence, or the unaltered energies, or another number that is a valid one."""

import copy
import functools
import itertools
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import mlff
from descriptors import acsf, inverse_distances
from mlff.archive import digest, stored_fields
from mlff.cli.main import show
from mlff.potentials.stored import REGISTRY

STRANGE = (None, True, -1, 0, 2.5, float("nan"), float("inf"), 1e308, 10**25, "text", [], [[1]], {}, {"array": "numbers"},
           {"function": "os:system"}, {"function": "descriptors.distances:inverse_distances"})  # fmt: skip
NUMERIC = (int, float)


def opened(path):
    """Header and arrays of a model file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["header"]), load_tensors(content)


def signed(path, header, arrays):
    """Write a model file with a digest that fits."""
    text = json.dumps(header)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    path.write_bytes(save_tensors(arrays, {"header": text, "digest": digest(arrays, text)}))


def places(tree, path=()):
    """Where a JSON tree has a value, inner ones too."""
    if path:
        yield path
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree[:2]) if isinstance(tree, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def replaced(tree, path, value):
    tree = copy.deepcopy(tree)
    inner = functools.reduce(lambda node, key: node[key], path[:-1], tree)
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


def altered_headers(header):
    """(what was done, whether the value is a number that may be another one, header)."""
    for path in places(header):
        old = functools.reduce(lambda node, key: node[key], path, header)
        for new in (..., *STRANGE):
            if new is ... or new is not old:
                free = type(old) in NUMERIC and type(new) in NUMERIC
                yield f"{'.'.join(map(str, path))} = {new!r}", free, replaced(header, path, new)


def altered_arrays(arrays):
    for name, array in arrays.items():
        first = array.copy()
        first.flat[0] = first.flat[0] + 1
        yield f"{name}: first entry", True, {**arrays, name: first}
        yield f"{name}: zero", True, {**arrays, name: np.zeros_like(array)}
        yield f"{name}: negative", True, {**arrays, name: -array - 1}
        yield f"{name}: missing", False, {other: arrays[other] for other in arrays if other != name}
        yield f"{name}: longer", False, {**arrays, name: np.concatenate([np.atleast_1d(array)] * 2)}
        yield f"{name}: shorter", False, {**arrays, name: np.atleast_1d(array)[:-1]}
        yield f"{name}: one axis more", False, {**arrays, name: array[None]}
        yield f"{name}: flat", False, {**arrays, name: np.concatenate([array.ravel(), [0]])}
        yield f"{name}: single precision", False, {**arrays, name: array.astype(np.float32)}
        yield f"{name}: text", False, {**arrays, name: np.frombuffer(array.tobytes(), np.uint8)}
        yield f"{name}: twice", False, {**arrays, name + "x": array}
        for number in (np.nan, np.inf, 1e308):
            if array.dtype.kind == "f":
                other = array.copy()
                other.flat[-1] = number
                yield f"{name}: {number}", number == 1e308, {**arrays, name: other}
        for other in arrays:
            if other > name and arrays[other].shape == array.shape:
                yield f"{name}, {other} swapped", True, {**arrays, name: arrays[other], other: array}


@functools.lru_cache(maxsize=3)
def sound(kind, water):
    """A small model: of a molecule with permutations, a sum with atoms and energies, or one with second-order weights."""
    group = mlff.find_permutations(water)
    whole = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=3.0), group)
    atoms = functools.partial(acsf, g2=((4.0, 1.0), (4.0, 2.0)), g4=(), g5=())
    local = mlff.LocalKernel(atoms, mlff.RationalQuadratic(lengthscale=np.full(4, 2.0), alpha=2.0))
    bent = [mlff.Frame(f.system, {**f.labels, "hessian": np.diag(np.arange(1.0, 10.0))}) for f in water[:2]]
    levels = {"energy": 1e-3, "forces": 1e-3, "hessian": 1.0}
    kernel, data, labels = {
        "molecule": (whole, water[:3], ("forces",)),
        "sum": (mlff.SumKernel((whole, local)), water[:3], ("energy", "forces")),
        "curved": (whole.replace(radial=mlff.RBF(lengthscale=3.0)), mlff.Dataset(bent), ("forces", "hessian")),
    }[kind]
    return mlff.fit(kernel, data, labels, None if kind == "molecule" else {name: levels[name] for name in labels})


@pytest.mark.thorough  # a sweep; exported and sourceless files are altered quickly, and every field's check is looked for
@pytest.mark.parametrize("kind", ["molecule", "sum", "curved"])
def test_altered_files_are_refused_or_give_the_same_energies(kind, water, tmp_path, capsys):
    force_field, path, x = sound(kind, water), tmp_path / "m.mlff", water[50].positions
    force_field.save(path)
    expected = force_field.energy(x)
    header, arrays = opened(path)
    signed(path, header, arrays)
    assert mlff.load(path).energy(x) == expected
    sentences, tried = [], 0
    every = 1 if os.environ.get("FULL") else 13
    cases = itertools.chain(
        (
            (what, free, other, arrays)
            for what, free, other in itertools.islice(altered_headers(header), 0, None, every)
        ),
        ((what, free, header, other) for what, free, other in altered_arrays(arrays)),
    )
    for what, free, other_header, other_arrays in cases:
        signed(path, other_header, other_arrays)
        tried += 1
        try:
            loaded = mlff.load(path)
            show(path)
            energy = loaded.energy(x)
        except ValueError as error:
            sentences.append(str(error))
            continue
        assert free or energy == pytest.approx(expected, abs=1e-9), what
    assert tried > 200
    assert len(sentences) > 0.8 * tried
    assert not any("\n" in sentence for sentence in sentences)


def test_every_field_of_every_class_that_is_stored_is_checked():
    for name, stored in REGISTRY.classes.items():
        assert set(stored_fields(stored.cls)) == set(stored.fields), name


def test_files_of_version_2_are_read(water_model, water, tmp_path):
    """They have no curvature and no name of own operators."""
    path = tmp_path / "m.mlff"
    water_model.save(path)
    header, arrays = opened(path)
    header = replaced(header, ("model", "parts", 0, "channels", 0, "curvature"), ...)
    header = replaced(replaced(header, ("record", "own_operators"), ...), ("version",), 2)
    signed(path, header, arrays)
    assert mlff.load(path).energy(water[50].positions) == water_model.energy(water[50].positions)


def test_an_error_without_its_other_mean_is_refused(water, tmp_path, capsys):
    """Which nobody could print."""
    path = tmp_path / "m.mlff"
    sound("sum", water).save(path)
    header, arrays = opened(path)
    signed(path, replaced(header, ("record", "training", "energy_rmse_per_atom"), None), arrays)
    with pytest.raises(
        ValueError, match=r"training\.energy_mae_per_atom and .*energy_rmse_per_atom are not both there"
    ):
        mlff.load(path)
