"""The audit catches planted defects by name, place and remedy, and passes sound descriptors."""

import functools
import json
import re

import ase
import ase.build
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mlff
from descriptors import fchl19, inverse_distances
from descriptors.geometry import CUTOFFS, environments, lengths, one_hot, pair_distances
from mlff.data.system import System
from mlff.quality.audit import crossings
from mlff.quality.audit.audit import audit
from mlff.quality.audit.places import Line

TABLE = jnp.linspace(0.5, 1.0, 36)  # float32: made where no one asked for more
NAMES = [
    "translation", "rotation", "reflection", "exchange", "derivatives", "awkward geometries",
    "continuity 0", "continuity 1", "continuity 2", "continuity 3", "cutoff", "far from the origin",
    "rank", "species", "constants", "precision", "cost",
]  # fmt: skip


def frame(atoms: ase.Atoms) -> mlff.Frame:
    return mlff.Frame(System.from_ase(atoms), {})


@pytest.fixture(scope="module")
def pair(ethanol) -> mlff.Dataset:
    return ethanol[[0, 100]]


# -- sound descriptors ---------------------------------------------------------------------------------------------


def shells(positions, numbers, cell=None, neighbors=None, *, elements, cutoff=4.0, cutoff_function="smooth"):
    """Gaussians of the distances to the neighbours, by element."""

    def atom(environment):
        r = lengths(environment.vectors)
        channels = one_hot(environment.numbers, elements, r.dtype)
        grid = jnp.arange(1, 9, dtype=r.dtype) * 0.5
        values = jnp.exp(-4.0 * (r[:, None] - grid) ** 2) * CUTOFFS[cutoff_function](r, cutoff)[:, None]
        return (channels.T @ values).ravel()

    return jax.vmap(atom)(environments(positions, numbers, cell, neighbors, cutoff))


def test_a_global_descriptor_passes(pair):
    result = audit(inverse_distances, pair)
    assert [finding.name for finding in result.findings] == ["finite", *NAMES]
    assert result.passed, [finding for finding in result.findings if not finding.passed]
    assert result.frames == ("frame 0", "frame 1000")
    assert result["rank"].text.startswith("rank 21 of 21 at frame 0")
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["findings"][-1]["limit"] is None
    assert set(result.costs) == {"value", "jacobian", "hessian"}
    assert all(cost["seconds"] > 0 and cost["bytes"] > 0 for cost in result.costs.values())
    assert all(len(row) == 5 and row[1] == "passed" for row in result.table())


@pytest.mark.thorough  # descriptors with and without a cutoff pass in other tests; this one compiles longest
def test_fchl19_passes(water):
    result = audit(functools.partial(fchl19, cutoff=4.0, radial2=4, radial3=3), water, count=1)
    assert result.passed, [finding for finding in result.findings if not finding.passed]
    assert "3 pairs" in result["cutoff"].text


def test_periodic_silicon_passes():
    crystals = []
    for seed in range(2):
        crystals.append(ase.build.bulk("Si", cubic=True))
        crystals[-1].rattle(0.1, seed=seed)
    result = audit(shells, [frame(crystal) for crystal in crystals])
    assert result.passed, [finding for finding in result.findings if not finding.passed]
    assert "supercell" in [finding.name for finding in result.findings]
    assert result["rank"].text.startswith("rank 21 of 21")


def test_frames_of_several_elements():
    """All elements are examined, however few frames are."""
    result = audit(shells, [frame(ase.build.molecule(name)) for name in ("H2O", "N2O", "HCN", "CO2", "SO2")], count=1)
    assert result.frames == ("frame 0", "frame 1", "frame 2", "frame 4")
    assert result.passed, [finding for finding in result.findings if not finding.passed]


def test_frames_of_several_sizes():
    """The worst of all counts."""
    molecules = [frame(ase.build.molecule(name)) for name in ("H2O", "CH4")]
    result = audit(wrong_index, molecules)
    assert [finding.name for finding in result.findings] == ["finite", *NAMES]
    assert result["rank"].text.startswith(
        "rank 2 of 3 at frame 0, 3 features; unseen: 1 motion, one of them of atoms 1 (H)"
    )
    assert result.frames == ("frame 0", "frame 1")
    assert "one geometry of 5 atoms" in result["cost"].text


@pytest.mark.parametrize("name", ["H", "N2"])
def test_hardly_any_atoms(name):
    atoms = ase.Atoms("H") if name == "H" else ase.build.molecule(name)
    assert audit(inverse_distances, [frame(atoms)]).passed


# -- planted defects -----------------------------------------------------------------------------------------------


def wrong_index(positions):
    """One pair is another one again."""
    first, second = np.triu_indices(len(positions), k=1)
    first[-1] = first[0]
    return 1.0 / jnp.sqrt(jnp.sum((positions[first] - positions[second]) ** 2, axis=1))


def hard_cutoff(positions, *, cutoff=3.0):
    r = pair_distances(positions)
    return jnp.where(r < cutoff, 1.0 / r, 0.0)


def hidden_cutoff(positions):
    r = pair_distances(positions)
    return jnp.where(r < 5.5, jnp.exp(-r), 0.0)


def unguarded_norm(positions):
    return jnp.exp(-jnp.linalg.norm(positions[:, None] - positions[None], axis=-1)).ravel()


def angles(positions, *, margin=0.0):
    """Angles by arccos, of everything within a margin of ±1."""
    n = len(positions)
    i, j, k = np.array([(i, j, k) for i in range(n) for j in range(n) for k in range(j + 1, n) if i not in (j, k)]).T
    one, two = positions[j] - positions[i], positions[k] - positions[i]
    cosine = jnp.sum(one * two, axis=1) / lengths(one) / lengths(two)
    clipped = jnp.clip(cosine, margin - 1.0, 1.0 - margin)
    return jnp.concatenate([inverse_distances(positions), jnp.arccos(clipped)])


def sort(positions):
    return jnp.sort(inverse_distances(positions))


def sorted_rows(positions):
    """Rows in the order of their sums: exchanged atoms give the same, but the order jumps."""
    squares = jnp.sum((positions[:, None] - positions[None]) ** 2, axis=-1) + jnp.eye(
        len(positions), dtype=positions.dtype
    )
    order = jnp.argsort(jnp.sum(1.0 / squares, axis=1))
    return (1.0 / squares)[order][:, order][np.triu_indices(len(positions), k=1)]


def relu(positions):
    inverse = inverse_distances(positions)
    return jax.nn.relu(inverse - 0.4) + 0.1 * inverse


def float32_table(positions):
    return inverse_distances(positions) * TABLE.mean().astype(positions.dtype)


def float32_number(positions):
    return inverse_distances(positions) * np.float32(0.529177)


def float32_inside(positions):
    return inverse_distances(positions.astype(jnp.float32)).astype(positions.dtype)


def missing_species(positions, numbers):
    """Oxygen has no channel."""
    return shells(positions, numbers, elements=(1, 6))


def absolute_position(positions):
    return inverse_distances(positions).at[3].add(1e-3 * positions[0, 0])


def constant(positions):
    return jnp.ones(5, positions.dtype)


def stopped(positions):
    inverse = inverse_distances(positions)
    return inverse * jax.lax.stop_gradient(jnp.sum(inverse))


def handed(positions):
    """A triple product, whose sign is that of the mirror image."""
    a, b, c = positions[1:4] - positions[0]
    return jnp.append(inverse_distances(positions), jnp.dot(jnp.cross(a, b), c))


def spectrum(positions, numbers):
    """Fewer numbers than motions, which cross besides."""
    z = jnp.asarray(numbers).astype(positions.dtype)
    squares = jnp.sum((positions[:, None] - positions[None]) ** 2, axis=-1) + jnp.eye(
        len(positions), dtype=positions.dtype
    )
    return jnp.linalg.eigvalsh(jnp.outer(z, z) / jnp.sqrt(squares))


def no_numbers(positions, numbers, *, elements):
    """Takes the numbers, but counts every element alike."""
    channels = jnp.sum(one_hot(numbers, elements, positions.dtype), axis=1)
    first, second = np.triu_indices(len(positions), k=1)
    return channels[first] * channels[second] / pair_distances(positions)


BLAMELESS_OTHERWISE = {wrong_index, no_numbers, float32_table, missing_species, unguarded_norm}
DEFECTS = [
    (wrong_index, "ethanol", {"exchange": r"largest for atoms .*8 \(H\), of 16 exchanges; an index is wrong"}),
    (hard_cutoff, "ethanol", {"cutoff": r"value of feature \d+ jumps from 0.3333 to 0 at atoms .* 3 Å apart.*smooth_cutoff",
                   "continuity 0": "jumps", "continuity 1": "see continuity 0"}),
    (hidden_cutoff, "ethanol", {"continuity 0": r"jumps from 0.004087 to 0 at frame 0 stretched .*\(atoms .*, 5.5000 Å apart\)"}),
    (functools.partial(shells, cutoff_function="cosine"), "water",
     {"cutoff": "4 Å apart, the cutoff.*smooth_cutoff", "continuity 2": "second derivative of feature .* of atom"}),
    (unguarded_norm, "ethanol", {"finite": r"first derivative of feature 0 is not finite at frame 0.*mask the argument before the root"}),
    (angles, "water", {"awkward geometries": r"not finite at .* on a line.*arccos.*cos θ"}),
    (functools.partial(angles, margin=1e-6), "water", {"continuity 1": r"jumps .* at a way past .*one element of a set.*cos θ"}),
    (sort, "ethanol", {"continuity 1": r"jumps .*one element of a set", "awkward geometries": "a kink, see continuity"}),
    (sorted_rows, "ethanol", {"continuity 0": r"value of feature \d+ jumps"}),
    (relu, "ethanol", {"continuity 1": r"jumps .*, 2.5000 Å apart\).*ReLU.*softplus"}),
    (float32_table, "ethanol", {"precision": r"a constant array of shape \(36,\).*test_audit.py:\d+:\d+ \(float32_table\): take dtypes"}),
    (float32_number, "ethanol", {"precision": r"a float32 number at test_audit.py:\d+:\d+ \(float32_number\)"}),
    (float32_inside, "ethanol", {"precision": r"float32 at test_audit.py", "far from the origin": "double precision",
                      "rotation": "single precision"}),
    (missing_species, "water", {"species": "atoms of H do not see O; give every element a channel"}),
    (absolute_position, "ethanol", {"translation": "feature 3, .*use differences of positions", "rotation": "", "far from the origin": ""}),
    (constant, "ethanol", {"constants": "5 of 5 features", "rank": "rank 0 of 21", "species": "no feature depends on atoms of H"}),
    (stopped, "ethanol", {"derivatives": "first derivative by AD and by finite differences, at .*stop_gradient"}),
    (handed, "ethanol", {"reflection": "mirror images.*triple products"}),
    (spectrum, "ethanol", {"rank": r"rank [89] of 21 .*9 features; unseen: 1[23] motions, one of them of atoms \d+ \([HCO]\)"}),
    (no_numbers, "ethanol", {"species": "H and C look the same; H and O look the same; C and O look the same"}),
]  # fmt: skip


@pytest.mark.parametrize(("descriptor", "molecule", "expected"), DEFECTS)
def test_defects_are_caught(descriptor, molecule, expected, request):
    result = audit(descriptor, request.getfixturevalue(molecule), count=2)
    failed = {finding.name: finding.text for finding in result.findings if not finding.passed}
    assert not result.passed
    for name, words in expected.items():
        assert re.search(words, failed.get(name, "passed")), failed
    if descriptor in BLAMELESS_OTHERWISE:
        assert set(failed) == set(expected)


def outside_jax(positions):
    return inverse_distances(positions) if positions[0, 0] > 0 else -inverse_distances(positions)


@jax.custom_vjp
def reverse_only(positions):
    return inverse_distances(positions)


def _forth(positions):
    return inverse_distances(positions), positions


def _back(positions, weights):
    return (jax.vjp(inverse_distances, positions)[1](weights)[0],)


reverse_only.defvjp(_forth, _back)


def forward_only(positions):
    start = inverse_distances(positions)
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 100.0, lambda x: 2.0 * x, start)


def in_reverse(positions):
    return reverse_only(positions)


@pytest.mark.parametrize(
    ("descriptor", "name", "words"),
    [
        (outside_jax, "compiles", "boolean conversion.*jnp.where"),
        (in_reverse, "derivatives", "cannot differentiate.*custom_jvp, not custom_vjp"),
        (forward_only, "derivatives", "cannot differentiate.*reverse mode.*no while_loop"),
    ],
)
def test_what_jax_cannot_do_is_a_finding(descriptor, name, words, pair):
    result = audit(descriptor, pair)
    (finding,) = result.findings
    assert (finding.name, finding.passed) == (name, False)
    assert re.search(words, finding.text), finding.text
    assert result.costs == {}


def test_elements_that_are_given_but_incomplete(water):
    result = audit(functools.partial(shells, elements=(1, 6)), water, count=1)
    assert "lack O" in result["species"].text
    assert not result["species"].passed
    assert result["rotation"].passed


def test_a_molecule_in_a_box_that_its_descriptor_does_not_know():
    crystal = ase.build.bulk("Si", cubic=True)
    crystal.rattle(0.1, seed=0)
    failed = {f.name: f.text for f in audit(inverse_distances, [frame(crystal)]).findings if not f.passed}
    assert set(failed) == {"translation", "rank"}
    assert "images that the cell gives" in failed["translation"]


@pytest.mark.parametrize(
    ("descriptor", "frames", "message"),
    [
        (inverse_distances, [], "give at least one geometry"),
        (lambda positions: positions[:2, :2], None, r"shape \(2, 2\) for 9 atoms; expected \(D,\)"),
        (lambda positions: jnp.sum(positions), None, r"shape \(\)"),
    ],
)
def test_refusals(descriptor, frames, message, pair):
    with pytest.raises(ValueError, match=message):
        audit(descriptor, pair if frames is None else frames)


def test_an_interval_is_halved_towards_a_value_that_is_not_finite(water):
    line = Line(water[0].system, np.ones((3, 3)) / 3.0, "jump", "a jump", 1.0)
    suspect = crossings._Suspect(line, 0.0, 1.0, (0, 0, 0), 0.0, 1.0, 1.0)
    suspect.halve(0.5, 0.9)
    assert (suspect.left, suspect.right) == (0.0, 0.5)
    for value in (np.inf, np.nan):
        suspect.halve(0.25, value)
        assert suspect.left == suspect.right == 0.25
