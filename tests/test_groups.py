"""Groups of frames and isolated atoms, as users of materials keep them: `config_type` or `group` in the file."""

import functools

import ase.build
import ase.io
import numpy as np
import pytest
from alloys import alloy_frames
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from moments import moments

import mlff
from mlff.data.batches import LabelledFrames
from mlff.data.group_noise import GroupNoise
from mlff.operators import ENERGY, FORCES
from mlff.quality.report import noise_text
from mlff.regression.planning import plan as planning
from mlff.regression.sparse.inducing import EnvironmentValues
from mlff.regression.sparse.label_kinds import group_of, label_of
from mlff.regression.sparse.sums import SparseSystem
from mlff.regression.sparse.weights import by_labels, folds_of, groups_apart, mean_error
from mlff.regression.system.features import compute_features
from mlff.regression.system.linear_system import LinearSystem

KERNEL = mlff.LocalKernel(moments, mlff.RBF(lengthscale=2.0))
NOISE = {"energy": 1e-2, "forces": 3e-2}


def atoms_of(frame: mlff.Frame, group: str, key: str = "config_type") -> Atoms:
    atoms = frame.to_ase()
    atoms.info[key] = group
    return atoms


def lone(symbol: str, energy: float, group: str = "IsolatedAtom") -> Atoms:
    return Atoms(symbol, cell=[15.0] * 3, pbc=True, info={"config_type": group, "REF_energy": energy})


@pytest.fixture(scope="module")
def frames() -> list[mlff.Frame]:
    return alloy_frames(8, rare=False)


@pytest.fixture(scope="module")
def grouped(frames, tmp_path_factory) -> mlff.Dataset:
    path = tmp_path_factory.mktemp("groups") / "alloy.extxyz"
    images = [
        atoms_of(f, "warm" if i % 2 else "strained", "config_type" if i % 2 else "group") for i, f in enumerate(frames)
    ]
    ase.io.write(path, [*images, lone("Cu", -1.5), lone("Au", -2.5, "isolated_atom")])
    return mlff.Dataset.read(path)


def test_isolated_atoms_are_energies_and_no_frames(grouped):
    assert len(grouped) == 8
    assert grouped.atomic_energies == {"Cu": -1.5, "Au": -2.5}
    assert grouped[2:5].atomic_energies == grouped.split(3, seed=1)[0].atomic_energies == grouped.atomic_energies


@pytest.mark.parametrize("inducing", [pytest.param(None, marks=pytest.mark.thorough), 20], ids=["exact", "sparse"])
def test_energies_of_isolated_atoms_are_the_constants(grouped, inducing):
    found = mlff.fit(KERNEL, grouped, tuple(NOISE), NOISE, inducing=inducing)
    given = mlff.fit(KERNEL, grouped, tuple(NOISE), NOISE, atomic_energies={"Cu": -1.5, "Au": -2.5}, inducing=inducing)
    np.testing.assert_array_equal(found.model.constants, [-1.5, -2.5])
    np.testing.assert_array_equal(given.model.constants, found.model.constants)


def test_an_isolated_atom_that_is_missing_is_named(frames, tmp_path, caplog):
    ase.io.write(tmp_path / "some.extxyz", [*(atoms_of(f, "warm") for f in frames), lone("Cu", -1.5)])
    force_field = mlff.fit(KERNEL, mlff.Dataset.read(tmp_path / "some.extxyz"), tuple(NOISE), NOISE)
    assert "isolated atoms, but not of Au" in caplog.text
    assert force_field.model.constants[0] != -1.5


def test_isolated_atoms_that_contradict_each_other_are_refused(frames, tmp_path):
    ase.io.write(tmp_path / "two.extxyz", [atoms_of(frames[0], "warm"), lone("Cu", -1.5), lone("Cu", -1.6)])
    with pytest.raises(ValueError, match=r"frame 2 is an isolated atom Cu of -1\.6 eV, another one has -1\.5"):
        mlff.Dataset.read(tmp_path / "two.extxyz")
    ase.io.write(tmp_path / "one.extxyz", [atoms_of(frames[0], "warm"), lone("Cu", -1.5)])
    ase.io.write(tmp_path / "other.extxyz", [atoms_of(frames[1], "warm"), lone("Cu", -1.7)])
    one, other = mlff.Dataset.read(tmp_path / "one.extxyz"), mlff.Dataset.read(tmp_path / "other.extxyz")
    with pytest.raises(ValueError, match=r"isolated atom Cu has -1\.7 eV, in one\.extxyz it has -1\.5"):
        one + other


@pytest.mark.parametrize("inducing", [None, range(8)], ids=["exact", "sparse"])
def test_the_noise_of_a_group_is_multiplied(grouped, inducing):
    """By the factors of all groups the same: as much noise; of one group by very much: as if it were not there."""
    kernel = KERNEL.replace(amplitude=5.0)
    where = alloy_frames(1, seed=4, rare=False)[0]
    geometry = where.positions, where.cell, None, where.numbers

    def forces(data, noise, factors):
        return mlff.fit(kernel, data, tuple(NOISE), noise, inducing=inducing, group_noise=factors).forces(*geometry)

    double = {name: 2 * level for name, level in NOISE.items()}
    both = forces(grouped, NOISE, {"warm": 2.0, "strained": 2.0})
    np.testing.assert_allclose(both, forces(grouped, double, None), atol=1e-8)
    some = forces(grouped, NOISE, {"strained": 1e6})
    exact = mlff.fit(kernel, grouped[[1, 3, 5, 7]], tuple(NOISE), NOISE).forces(*geometry)
    np.testing.assert_allclose(some, exact, atol=1e-5)


@pytest.mark.parametrize("inducing", [None, range(8)], ids=["exact", "sparse"])
def test_the_noise_of_one_kind_of_label_in_a_group_is_stated(grouped, inducing):
    """Stated of all groups: as `noise` says it. Of forces very much: only the energies of these frames count."""
    kernel = KERNEL.replace(amplitude=5.0)
    where = alloy_frames(1, seed=4, rare=False)[0]
    geometry = where.positions, where.cell, None, where.numbers

    def forces(data, noise, groups):
        return mlff.fit(kernel, data, tuple(NOISE), noise, inducing=inducing, group_noise=groups).forces(*geometry)

    said = {"warm:energy": 1e-2, "strained:energy": 1e-2, "warm:forces": 3e-2, "strained:forces": 3e-2}
    others = {"energy": 0.3, "forces": 0.5}
    np.testing.assert_allclose(forces(grouped, others, said), forces(grouped, NOISE, None), atol=1e-8)
    # what is stated goes before a factor of the whole group
    both = {**said, "warm": 7.0}
    np.testing.assert_allclose(forces(grouped, others, both), forces(grouped, NOISE, None), atol=1e-8)
    bare = [
        mlff.Frame(f.system, {k: v for k, v in f.labels.items() if f.group == "warm" or k == "energy"}, f.atoms)
        for f in grouped
    ]
    some = forces(grouped, NOISE, {"strained:forces": 1e6})
    known = grouped.atomic_energies
    exact = mlff.fit(kernel, mlff.Dataset(bare, "bare"), tuple(NOISE), NOISE, atomic_energies=known).forces(*geometry)
    np.testing.assert_allclose(some, exact, atol=1e-5)


def test_what_is_stated_of_groups_stays_while_other_noise_is_found(grouped, tmp_path):
    """In a sparse model, of an atom: with the rest of its noise as it was found, stated, it is the same model."""
    groups = {"strained:energy": 4e-3, "warm": 2.0}
    found = mlff.fit(KERNEL, grouped, tuple(NOISE), inducing=20, group_noise=groups)
    assert found.record["group_noise"] == {"factors": {"warm": 2.0}, "stated": {"strained:energy": 4e-3}}
    assert set(found.record["inducing"]["held_out_rmse"][-1][1]) == {"energy", "energy (stated)", "forces"}
    levels, amplitude = found.record["noise"], found.kernel.amplitude
    (atoms,) = {len(frame.numbers) for frame in grouped}
    stated = {"energy": levels["energy"] * atoms**0.5, "forces": levels["forces"]}
    of_frames = {"strained:energy": 4e-3 * atoms**0.5, "warm": 2.0}
    kernel = found.kernel.replace(amplitude=amplitude)
    again = mlff.fit(kernel, grouped, tuple(NOISE), stated, inducing=20, group_noise=of_frames)
    where = grouped[0].positions, grouped[0].cell, None, grouped[0].numbers
    np.testing.assert_allclose(again.forces(*where), found.forces(*where), atol=1e-7)
    found.save(tmp_path / "groups.mlff")
    record = mlff.load(tmp_path / "groups.mlff", trusted=("moments",)).record
    assert "strained:energy 0.004 √n, warm times 2" in noise_text(record)


def test_what_is_stated_of_every_group_leaves_nothing_to_find(grouped):
    groups = {f"{group}:{label}": 1e-2 for group in ("warm", "strained") for label in NOISE}
    found = mlff.fit(KERNEL, grouped, tuple(NOISE), inducing=20, group_noise=groups)
    assert found.record["noise"] == {}
    (atoms,) = {len(frame.numbers) for frame in grouped}
    kernel = KERNEL.replace(amplitude=found.kernel.amplitude)
    stated = mlff.fit(kernel, grouped, tuple(NOISE), {"energy": 1e-2 * atoms**0.5, "forces": 1e-2}, inducing=20)
    where = grouped[0].positions, grouped[0].cell, None, grouped[0].numbers
    np.testing.assert_allclose(stated.forces(*where), found.forces(*where), atol=1e-7)


def test_factors_and_levels_stand_on_the_diagonal(grouped):
    noise, kernel = {ENERGY: 1e-2, FORCES: 3e-2}, KERNEL.completed(grouped[0].numbers)
    frames = LabelledFrames.of(grouped, GroupNoise.of({"warm": 3.0, "strained:forces": 0.7}, grouped, tuple(NOISE)))
    system = LinearSystem.of(kernel, compute_features(kernel, frames, noise), noise)
    of_frames = np.split(system.features.noise, system.features.ends[:-1])
    for i, levels in zip(frames.index, of_frames, strict=True):
        assert levels[0] == pytest.approx(3e-2 if i % 2 else 1e-2)
        assert levels[1:] == pytest.approx(9e-2 if i % 2 else 0.7)


@pytest.mark.parametrize(
    ("groups", "word"),
    [
        ({"cold": 2.0}, "no group 'cold'; there are strained, warm"),
        ({"cold:energy": 2.0}, "no group 'cold'; there are strained, warm"),
        ({"warm:virial": 2.0}, "'virial' is not fitted; write warm: and one of energy"),
        ({"warm:hessian": 2.0}, "no frame of warm has hessian"),
        ({"warm:energy": 0.0}, "must be positive and finite, the standard deviation of energy in warm"),
        ({"warm": 0.0}, "must be positive"),
        ([1.0], "by the name"),
    ],
)
def test_noise_of_no_group_or_label_is_refused(grouped, groups, word):
    with pytest.raises(ValueError, match=rf"group_noise.*{word}"):
        GroupNoise.of(groups, grouped, ("energy", "hessian"))


def test_a_name_with_a_colon_is_a_group(grouped):
    frames = [mlff.Frame(f.system, f.labels, atoms_of(f, "a:energy")) for f in grouped]
    found = GroupNoise.of({"a:energy": 2.0, "a:energy:energy": 0.1}, mlff.Dataset(frames, "colons"), ("energy",))
    assert found == GroupNoise({"a:energy": 2.0}, {("a:energy", "energy"): 0.1})


def test_tuning_takes_factors_of_groups_alone(grouped):
    with pytest.raises(ValueError, match=r"group_noise: states the noise .* that of the others is tuned; give factors"):
        mlff.tune(KERNEL, grouped, tuple(NOISE), group_noise={"warm:energy": 1e-3})


@pytest.fixture(scope="module")
def rough() -> mlff.Dataset:
    """Two groups, in one of which energies are off at random, and a frame of a third."""
    generator, frames = np.random.default_rng(3), []
    for i, frame in enumerate(alloy_frames(21, rare=False)):
        group = "lone" if i == 20 else "rough" if i % 2 else "fine"
        off = 0.5 * generator.standard_normal() * (group == "rough")
        frames.append(
            mlff.Frame(frame.system, {**frame.labels, "energy": frame.labels["energy"] + off}, atoms_of(frame, group))
        )
    return mlff.Dataset(frames, "rough")


def test_noise_of_groups_is_found(rough):
    """The more, the larger the errors of the group; stated, it gives the same model."""
    found = mlff.fit(KERNEL, rough, tuple(NOISE), inducing=30)
    factors, levels = found.record["inducing"]["group_factors"], found.record["noise"]
    assert set(factors) == set(NOISE)
    assert factors["energy"]["rough"] > 1.0 > 0.8 > factors["energy"]["fine"]
    assert "(fine times" in noise_text(found.record)
    (atoms,) = {len(frame.numbers) for frame in rough}
    root = {"energy": atoms**0.5, "forces": 1.0}
    stated = {f"{g}:{label}": levels[label] * f * root[label] for label, of in factors.items() for g, f in of.items()}
    noise = {label: levels[label] * root[label] for label in NOISE}
    kernel = KERNEL.replace(amplitude=found.kernel.amplitude)
    again = mlff.fit(kernel, rough, tuple(NOISE), noise, inducing=30, group_noise=stated)
    where = rough[0].positions, rough[0].cell, None, rough[0].numbers
    np.testing.assert_allclose(again.forces(*where), found.forces(*where), atol=1e-6)
    for given in ({"noise": NOISE}, {"group_noise": {"rough": 2.0}}):
        assert "group_factors" not in mlff.fit(KERNEL, rough, tuple(NOISE), inducing=30, **given).record["inducing"]


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_noise_that_is_stated_of_a_group_is_in_its_unit(rough, unit, monkeypatch):
    """What prior and noise of the others are found beside it does not depend on how large the prior is thought to be at first."""
    found = mlff.fit(KERNEL, rough, tuple(NOISE), inducing=30)
    first = SparseSystem.amplitudes.func
    monkeypatch.setattr(SparseSystem, "amplitudes", property(lambda system: unit * first(system)))
    stated = {
        "fine:energy": found.record["noise"]["energy"] * found.record["inducing"]["group_factors"]["energy"]["fine"]
    }
    again = mlff.fit(KERNEL, rough, tuple(NOISE), inducing=30, group_noise=stated)
    for label in NOISE:
        assert 0.2 < again.record["noise"][label] / found.record["noise"][label] < 5.0
    assert 0.05 < np.ravel(again.kernel.amplitude)[0] / np.ravel(found.kernel.amplitude)[0] < 20.0


def test_errors_of_groups_together_are_those_of_all(rough):
    frames = LabelledFrames.of(rough)
    kernel = KERNEL.completed(rough[0].numbers)
    inducing = EnvironmentValues.choose(kernel, frames, 30, seed=0)
    asked, groups = (
        {ENERGY: 1.0, FORCES: 1.0},
        {i: frame.group for i, frame in enumerate(rough) if frame.group != "lone"},
    )
    build = functools.partial(SparseSystem.of, inducing, kernel, frames, asked, folds_of(frames, 0), None, True)
    apart, together, amplitude = build(groups=groups), build(), np.ones(1)
    assert {label_of(kind) for kind in apart.kinds} == set(together.kinds)
    assert {group_of(kind) for kind in apart.kinds} == {"fine", "rough", None}
    expected = together.errors(NOISE, amplitude)
    assert by_labels(apart.errors(NOISE, amplitude), apart) == pytest.approx(expected, rel=1e-6)
    assert apart.merged({}).errors(NOISE, amplitude) == pytest.approx(expected, rel=1e-6)
    # how good noise is, is told by the mean of logarithms: few labels that are known badly do not outweigh the others
    errors, atoms = apart.errors(NOISE, amplitude), len(rough[0].numbers)
    counts = {kind: {"fine": 10, "rough": 10, None: 1}[group_of(kind)] for kind in errors}
    assert {kind: moments.count for kind, moments in apart.whole.items()} == {
        kind: count * (3 * atoms if label_of(kind) == "forces" else 1) for kind, count in counts.items()
    }
    sizes = {kind: np.hypot(error, 0.03 * expected[label_of(kind)]) for kind, error in errors.items()}
    logs = [sum(counts[k] * np.log(sizes[k]) for k in errors if label_of(k) == label) / 21 for label in NOISE]
    assert mean_error(errors, apart) == pytest.approx(np.exp(np.mean(logs)), rel=1e-6)
    nothing = {kind: 0.0 if kind == "forces of group fine" else error for kind, error in errors.items()}
    assert 0.0 < mean_error(nothing, apart) < mean_error(errors, apart)


def test_groups_are_told_apart_where_there_are_enough_frames_and_memory(rough, monkeypatch):
    groups = {i: frame.group for i, frame in enumerate(rough)}
    assert set(groups_apart(groups, 30, 2).values()) == {"fine", "rough"}
    assert not groups_apart({i: "fine" for i in groups}, 30, 2)
    assert not groups_apart(groups, 10000, 2)
    needed = planning.sparse_bytes  # of as many functionals as these frames have no environments for
    monkeypatch.setattr(planning, "sparse_bytes", lambda _, *kinds: needed(2000, *kinds))
    plan = functools.partial(mlff.plan, KERNEL, rough, tuple(NOISE), inducing=2000)
    most = plan(memory="64GB")
    assert (most.groups, plan(memory="64GB", noise=NOISE).groups) == (2, 0)
    little = plan(memory=most.memory - 2**28)  # far from what a process has by chance
    assert little.groups == 0
    assert little.memory < most.memory - 2**29


def test_errors_are_told_by_group(grouped):
    force_field = mlff.fit(KERNEL, grouped[:4], tuple(NOISE), NOISE)
    found = mlff.evaluate(force_field, grouped[4:])
    assert {name: errors["frames"] for name, errors in found.groups.items()} == {"strained": 2, "warm": 2}
    whole = np.mean([errors["forces_mae"] for errors in found.groups.values()])
    assert whole == pytest.approx(found.forces_mae)
    assert found.summary()["groups"] == found.groups
    assert not mlff.evaluate(force_field, grouped[[5, 7]]).groups


def test_a_single_crystal_atom_is_no_isolated_one(tmp_path):
    atoms = ase.build.bulk("Cu")
    atoms.info["config_type"] = "bulk"
    atoms.calc = SinglePointCalculator(atoms, energy=-3.0, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "bulk.extxyz", atoms)
    assert len(mlff.Dataset.read(tmp_path / "bulk.extxyz")) == 1
