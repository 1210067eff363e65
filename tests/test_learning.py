"""Learning on the fly: what is asked for, what a kill leaves, where it goes on."""

import functools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule

import mlff
from descriptors import soap
from descriptors.geometry import pair_distances
from mlff.workflows import turns
from mlff.workflows.learning_figure import learning_figure
from mlff.workflows.ledger import Ledger


def morse(positions):
    """Water of three Morse oscillators, eV."""
    lengths, depths = jnp.array([0.96, 0.96, 1.52]), jnp.array([4.0, 4.0, 1.0])
    return jnp.sum(depths * (1.0 - jnp.exp(-2.0 * (pair_distances(positions) - lengths))) ** 2)


class Counting(mlff.Calculator):
    """The reference, which counts what it is asked, and fails or dies at some of it."""

    def __init__(self, dies_at=None, fails_at=()):
        super().__init__(mlff.ForceField.of(morse, [8, 1, 1]))
        self.asked, self.dies_at, self.fails_at = [], dies_at, fails_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=("positions",)):
        if not self.asked or not np.array_equal(self.asked[-1], atoms.positions):
            if len(self.asked) == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(atoms.positions.copy())
            if len(self.asked) in self.fails_at:
                raise RuntimeError("not converged")
        super().calculate(atoms, properties, system_changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(turns, "TURN", 100)


SETTINGS = {"calls": 11, "temperature": 300.0, "walkers": 2, "model": "sgdml", "seed": 3}


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned") / "water"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "TURN", 100)
        calculator = Counting()
        return mlff.learn(calculator, molecule("H2O"), folder, **SETTINGS), folder, calculator


def weights(learned):
    return np.asarray(learned.force_field.model.parts[0].channels[0].tangents)


def test_labels_are_of_the_calculator_and_the_model_knows_them(learned):
    found, folder, calculator = learned
    assert len(found.data) == len(found.calls) == len(calculator.asked) == 11
    reference = mlff.ForceField.of(morse, [8, 1, 1])
    for frame, asked in zip(found.data, calculator.asked, strict=True):
        np.testing.assert_array_equal(frame.positions, asked)
        np.testing.assert_allclose(frame.labels["forces"], reference.forces(frame.positions), atol=1e-8)
    read = mlff.Dataset.read(folder / "frames.extxyz")
    assert read.hash() == found.data.hash()
    loaded = mlff.load(folder / "model.mlff")
    np.testing.assert_allclose(loaded.forces(asked), found.force_field.forces(asked), atol=1e-12)
    # better than six displaced copies of the start would make it
    few = mlff.fit(mlff.recipe("sgdml", found.data[:6])[0], found.data[:6])
    test = np.stack([frame.positions for frame in mlff.sampled(Counting(), found.data, 40, 300.0, 10)])
    errors = [np.sqrt(np.mean((each.forces(test) - reference.forces(test)) ** 2)) for each in (found.force_field, few)]
    assert errors[0] < 0.8 * errors[1]


def test_calls_say_what_the_model_had_said(learned):
    found, *_ = learned
    assert all(call.std is None for call in found.calls[:6])
    asked = found.calls[6:]
    assert all(call.std > 0 and call.error > 0 and call.threshold > 0 for call in asked)
    assert {call.walker for call in asked} == {0, 1}
    assert 0.2 < np.median([call.error / call.std for call in asked]) < 5.0
    assert len(learning_figure(found.calls).axes) == 3
    with pytest.raises(ValueError, match="nothing to show"):
        learning_figure(found.calls[:6])


def test_goes_on_to_the_same_end_where_it_was_killed(learned, tmp_path):
    """Among the first labels, and later."""
    whole, _, _ = learned
    calculators = Counting(dies_at=2), Counting(dies_at=6), Counting()
    for calculator in calculators[:2]:
        with pytest.raises(KeyboardInterrupt):
            mlff.learn(calculator, molecule("H2O"), tmp_path / "water", **SETTINGS)
    found = mlff.learn(calculators[2], molecule("H2O"), tmp_path / "water", **SETTINGS)
    assert [len(calculator.asked) for calculator in calculators] == [2, 6, 3]  # no label twice
    assert found.data.hash() == whole.data.hash()
    np.testing.assert_array_equal(weights(found), weights(whole))


def test_goes_on_after_a_kill_between_two_files(learned, tmp_path, monkeypatch):
    """The label is written, the state does not know of it yet."""
    whole, _, _ = learned
    calculator, save = Counting(), Ledger.save

    def dies(ledger):
        if len(ledger.calls) == 9:  # of the label that was written last
            raise KeyboardInterrupt
        save(ledger)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            mlff.learn(calculator, molecule("H2O"), tmp_path / "water", **SETTINGS)
    assert len(mlff.Dataset.read(tmp_path / "water" / "frames.extxyz")) == 9
    found = mlff.learn(calculator, molecule("H2O"), tmp_path / "water", **SETTINGS)
    assert len(calculator.asked) == 11
    np.testing.assert_array_equal(weights(found), weights(whole))


def test_more_calls_and_other_settings(learned, tmp_path):
    whole, folder, _ = learned
    shutil.copytree(folder, tmp_path / "water")
    calculator = Counting()
    found = mlff.learn(calculator, molecule("H2O"), tmp_path / "water", **{**SETTINGS, "calls": 12})
    assert len(calculator.asked) == 1
    assert found.data[:11].hash() == whole.data.hash()
    with pytest.raises(ValueError, match=r"was begun with temperature=300.0, received 400.0"):
        mlff.learn(calculator, molecule("H2O"), tmp_path / "water", **{**SETTINGS, "temperature": 400.0})
    state = tmp_path / "water" / "state.json"
    said = json.loads(state.read_text())
    state.write_text(json.dumps({**said, "calls": said["calls"][:-3]}))
    with pytest.raises(ValueError, match="12 frames for 9 calls"):
        mlff.learn(calculator, molecule("H2O"), tmp_path / "water", **SETTINGS)
    state.write_text('{"program": "mlff learn"}')
    with pytest.raises(ValueError, match="is no state of mlff learn"):
        mlff.learn(calculator, molecule("H2O"), tmp_path / "water", **SETTINGS)


def test_threshold_that_is_given_ends_the_work(tmp_path):
    found = mlff.learn(Counting(), molecule("H2O"), None, calls=100, threshold=0.5, patience=600, **_but("calls"))
    assert 6 <= len(found.calls) < 100


def test_calculator_that_fails(caplog):
    calculator = Counting(fails_at=(7, 8, *range(10, 15)))
    with pytest.raises(ValueError, match="Counting fails, 5 times in a row; RuntimeError: not converged"):
        mlff.learn(calculator, molecule("H2O"), None, **SETTINGS)
    assert len(calculator.asked) == 14
    assert caplog.text.count("Counting fails, RuntimeError: not converged; walker") == 7


def test_crystal_and_several_starts():
    from ase.build import bulk
    from ase.calculators.emt import EMT

    cells = [bulk("Cu", cubic=True, a=a) for a in (3.6, 3.7)]
    kernel = mlff.LocalKernel(functools.partial(soap, cutoff=4.0, n_max=2, l_max=2), mlff.RBF())
    found = mlff.learn(EMT(), cells, None, calls=8, temperature=300.0, walkers=2, model=kernel)
    assert found.force_field.takes_cell
    assert len(found.data) == 8


def _but(*names):
    return {name: value for name, value in SETTINGS.items() if name not in names}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"calculator": "gfn2"}, "expected one of ASE's calculators"),
        ({"atoms": []}, "expected one geometry, or several of the same atoms"),
        ({"atoms": [molecule("H2O"), molecule("NH3")]}, "of the same atoms"),
        ({"calls": 5}, "calls=5 must be a whole number, 6 or more"),
        ({"walkers": 0}, "walkers=0 must be"),
        ({"threshold": -1.0}, "threshold=-1.0 must be positive"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"model": "gap"}, "model='gap' is not known"),
        ({"model": 3}, "expected the name of a recipe or a kernel"),
        ({"timestep": -1.0}, "timestep=-1.0"),
    ],
)
def test_bad_arguments(changed, said):
    arguments = {"calculator": Counting(), "atoms": molecule("H2O"), **changed}
    with pytest.raises(ValueError, match=said):
        mlff.learn(**arguments)


def test_refits_are_when_frames_have_grown_by_a_quarter():
    assert turns.refits(40) == [6, 8, 10, 13, 17, 22, 28, 35]
    assert turns.refits(6) == [6]


def test_folders_and_calculators_that_do_not_fit(learned, tmp_path):
    _, folder, _ = learned
    shutil.copytree(folder, tmp_path / "water")
    other = Counting()
    other.parameters = {"method": "another"}
    with pytest.raises(
        ValueError, match=r"was begun with calculator=Counting\(\), received Counting\(method='another'\)"
    ):
        mlff.learn(other, molecule("H2O"), tmp_path / "water", **SETTINGS)
    moved = molecule("H2O")
    moved.rattle(0.1, seed=1)
    with pytest.raises(ValueError, match="another start"):
        mlff.learn(Counting(), moved, tmp_path / "water", **SETTINGS)
    (tmp_path / "water" / "state.json").unlink()
    before = (tmp_path / "water" / "frames.extxyz").read_bytes()
    with pytest.raises(ValueError, match=r"holds frames.extxyz, but no state.json"):
        mlff.learn(Counting(), molecule("H2O"), tmp_path / "water", **SETTINGS)
    assert (tmp_path / "water" / "frames.extxyz").read_bytes() == before
    for name in ("", tmp_path / "none" / "deeper", tmp_path / "water" / "frames.extxyz"):
        with pytest.raises(ValueError, match="expected the name of a folder"):
            mlff.learn(Counting(), molecule("H2O"), name, **SETTINGS)
    with pytest.raises(ValueError, match="Counting fails at the first geometries, RuntimeError: not converged"):
        mlff.learn(Counting(fails_at=(2,)), molecule("H2O"), None, **SETTINGS)
    with pytest.raises(ValueError, match="could not be made, KeyError"):
        mlff.learn(lambda: {}["none"], molecule("H2O"), None, **SETTINGS)
    with pytest.raises(ValueError, match="a single atom"):
        mlff.learn(Counting(), molecule("H2O")[:1], None, **SETTINGS)
