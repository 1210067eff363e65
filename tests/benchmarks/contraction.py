"""Force prediction by three routes: dense derivative blocks, pairwise contraction, and the expansion.

    python tests/benchmarks/contraction.py [--frames 1000] [--geometries 10] [--recipes sgdml fchl19-gpr …] [--json FILE]

For every recipe, ethanol (9 atoms) and 1-hexanol (21 atoms), 1000 training frames, 10 geometries at a time:

    dense        the 3N × 3N block of second derivatives of k(x, x′) of every pair by nested AD from positions
                 (reverse mode for one index, forward for the other), times the frame's weights
    contraction  the jvp, along the frame's weights, of the gradient of k(x, x′) of every pair, from positions
    expansion    what `ForceField.forces` does

The weights are random: only time is asked, and that all three agree. Dense blocks, and pairwise contractions that would
take longer than the budget, are timed on as many pairs as fit and extrapolated: marked *.
"""

import argparse
import functools
import json
import statistics
import time

import ase
import ase.build
import jax
import jax.numpy as jnp
import numpy as np

import mlff
from descriptors import fchl19, inverse_distances, schnet_features, soap
from descriptors.schnet import schnet_parameters
from mlff.data.batches import LabelledFrames
from mlff.data.system import System
from mlff.potentials.expansion import Expansion
from mlff.regression.system.features import compute_features

BUDGET = 6.0  # s a measurement of a slow route may take
FEW = 3  # frames on which the three routes are compared


def hexanol() -> ase.Atoms:
    """1-Hexanol, a zigzag chain with hydrogens at tetrahedral places; 21 atoms."""
    bond, half = 1.53, np.deg2rad(55.0)
    chain = np.array([[k * bond * np.sin(half), 0.0, (k % 2) * bond * np.cos(half)] for k in range(7)])
    chain[6, 0] -= 0.1  # the oxygen
    symbols, positions = list("CCCCCCO"), list(chain)
    for k in range(6):
        up = np.array([0.0, 0.0, 1.0 if k % 2 else -1.0])
        for side in (1.0, -1.0):
            symbols.append("H")
            positions.append(chain[k] + 1.09 * (0.58 * up + 0.815 * side * np.array([0.0, 1.0, 0.0])))
    symbols += ["H", "H"]
    positions.append(chain[0] + 1.09 * np.array([-0.82, 0.0, 0.57]))
    positions.append(chain[6] + 0.97 * np.array([0.82, 0.0, 0.57]))
    return ase.Atoms(symbols, np.array(positions))


ETHANOL_GROUP = [[0, 1, 2, 3, 4, 5, 7, 8, 6], [0, 1, 2, 3, 5, 4, 6, 8, 7]]


def molecules() -> dict:
    """Atoms and a group of six permutations each: a methyl group turned, and the molecule mirrored."""
    ethanol, chain = ase.build.molecule("CH3CH2OH"), hexanol()
    methyl = [7, 8, 19]
    turned, mirrored = list(range(21)), list(range(21))
    for a, b in zip(methyl, methyl[1:] + methyl[:1], strict=True):
        turned[a] = b
    for k in range(6):
        mirrored[7 + 2 * k], mirrored[8 + 2 * k] = 8 + 2 * k, 7 + 2 * k
    return {"ethanol": (ethanol, ETHANOL_GROUP), "1-hexanol": (chain, [turned, mirrored])}


def recipes(atoms, generators) -> dict:
    """The kernel of every recipe, length scales of the order that fits find."""
    group = mlff.Permutations.generate(generators, atoms.numbers)
    learned = functools.partial(schnet_features, parameters=schnet_parameters(0))
    return {
        "gdml": mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0)),
        "sgdml": mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=10.0), group),
        "sgdml-rbf": mlff.GlobalKernel(inverse_distances, mlff.RBF(lengthscale=3.0), group),
        "fchl19-gpr": mlff.LocalKernel(fchl19, mlff.RBF(lengthscale=3.0)),
        "global-fchl19": mlff.GlobalKernel(fchl19, mlff.RBF(lengthscale=8.0)),
        "sfchl19": mlff.GlobalKernel(fchl19, mlff.RBF(lengthscale=8.0), group),
        "schnet-kernel": mlff.LocalKernel(learned, mlff.RBF(lengthscale=5.0)),
        "soap-gpr": mlff.LocalKernel(soap, mlff.RBF(lengthscale=5.0)),
    }


def model_of(kernel, atoms, positions, rng):
    """A force field with random weights on its labels, and those weights as directions of the frames."""
    frames = LabelledFrames.uniform(positions, atoms.numbers, {"forces": np.zeros_like(positions)})
    kernel = kernel.completed(atoms.numbers)
    features = compute_features(kernel, frames, {"forces": 1.0})
    observations = features.observations
    weights = rng.standard_normal(len(features.labels))
    per_frame = np.split(weights, features.ends[:-1])
    directions = np.stack([w @ frame.rows.directions for w, frame in zip(per_frame, observations, strict=True)])
    model = Expansion(tuple(term.expand(observations, weights) for term in features.terms), np.zeros(1))
    force_field = mlff.ForceField(model, np.asarray(atoms.numbers), kernel)
    return force_field, kernel, directions.reshape(positions.shape)


def pairwise(kernel, numbers):
    """k(x, x′) from positions, its dense derivative block times weights, and the contraction."""

    def k(x, y):
        one, two = (System(z, np.asarray(numbers), np.zeros((3, 3)), np.zeros(3, bool)) for z in (x, y))
        return kernel.evaluate(one, two)

    def dense(x, y, weights):
        block = jax.jacfwd(jax.grad(k, argnums=0), argnums=1)(x, y)
        return -jnp.einsum("aibj,bj->ai", block, weights)

    def contraction(x, y, weights):
        return -jax.grad(lambda z: jax.jvp(lambda w: k(z, w), (y,), (weights,))[1])(x)

    return dense, contraction


def summed(function):
    """Forces on each of some geometries: the sum over the first `count` frames, one after the other, geometries together."""

    @jax.jit
    def forces(geometries, positions, weights, count):
        def add(i, total):
            return total + jax.vmap(lambda x: function(x, positions[i], weights[i]))(geometries)

        return jax.lax.fori_loop(0, count, add, jnp.zeros_like(geometries))

    return forces


def seconds(action, repeats: int) -> float:
    """Median."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(action())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def slow_route(route, geometries, positions, weights) -> tuple[float, int]:
    """Time for all frames, and how many of them it was measured on: as many as fit into the budget."""
    count = FEW
    while True:
        spent = seconds(lambda count=count: route(geometries, positions, weights, count), 1)
        if count == len(positions) or spent * 3 > BUDGET:
            return spent * len(positions) / count, count
        count = min(len(positions), max(count + 1, int(count * min(50.0, BUDGET / 2 / spent))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--geometries", type=int, default=10)
    parser.add_argument("--recipes", nargs="*")
    parser.add_argument("--json")
    options = parser.parse_args()
    rng, table = np.random.default_rng(0), []
    head = (
        "molecule",
        "recipe",
        "dense",
        "contraction",
        "expansion",
        "over dense",
        "over contraction",
        "largest deviation",
    )
    print(" | ".join(head))
    for name, (atoms, generators) in molecules().items():
        spread = 0.05 * rng.standard_normal((options.frames + options.geometries, len(atoms), 3))
        everything = atoms.positions + spread
        positions, geometries = everything[: options.frames], everything[options.frames :]
        for recipe, kernel in recipes(atoms, generators).items():
            if options.recipes and recipe not in options.recipes:
                continue
            force_field, kernel, weights = model_of(kernel, atoms, positions, rng)
            ours = seconds(lambda f=force_field, g=geometries: f.forces(g), 15)
            with jax.enable_x64(True):
                dense, contraction = (summed(f) for f in pairwise(kernel, atoms.numbers))
                exact = model_of_first(kernel, atoms, positions[:FEW], weights[:FEW]).forces(geometries)
                found = [np.asarray(f(geometries, positions, weights, FEW)) for f in (dense, contraction)]
                deviation = max(np.abs(f - exact).max() for f in found) / np.abs(exact).max()
                dense_s, dense_n = slow_route(dense, geometries, positions, weights)
                pair_s, pair_n = slow_route(contraction, geometries, positions, weights)
            row = {
                "molecule": name, "recipe": recipe, "dense_s": dense_s, "contraction_s": pair_s, "expansion_s": ours,
                "dense_frames": dense_n, "contraction_frames": pair_n, "over_dense": dense_s / ours,
                "over_contraction": pair_s / ours, "deviation": deviation,
            }  # fmt: skip
            table.append(row)
            marks = ["*" if n < len(positions) else "" for n in (dense_n, pair_n)]
            print(
                f"{name} | {recipe} | {1e3 * dense_s:.0f} ms{marks[0]} | {1e3 * pair_s:.1f} ms{marks[1]} | {1e3 * ours:.3f} ms "
                f"| {dense_s / ours:.0f} | {pair_s / ours:.1f} | {deviation:.1e}",
                flush=True,
            )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(table, file, indent=1)


def model_of_first(kernel, atoms, positions, weights):
    """The force field of a few frames with given weights in coordinates, for the comparison of the routes."""
    frames = LabelledFrames.uniform(positions, atoms.numbers, {"forces": np.zeros_like(positions)})
    features = compute_features(kernel, frames, {"forces": 1.0})
    observations = features.observations
    rows = np.concatenate([frame.rows.directions @ w.ravel() for frame, w in zip(observations, weights, strict=True)])
    model = Expansion(tuple(term.expand(observations, rows) for term in features.terms), np.zeros(1))
    return mlff.ForceField(model, np.asarray(atoms.numbers), kernel)


if __name__ == "__main__":
    main()
