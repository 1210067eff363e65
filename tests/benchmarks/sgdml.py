"""This library against sGDML on the same frames, in alternation: fit time, memory, throughput, latency, as ratios.

    python tests/benchmarks/sgdml.py TRAIN.npz TEST.npz --peer sgdml_reference.py --peer-python VENV/bin/python

Every run is a process of its own; medians over the rounds; for each quantity sGDML's better configuration
(NumPy processes or PyTorch) is the one compared with. Files: rMD17's npz, kcal/mol.
"""

import argparse
import json
import pathlib
import sys
import time

from peers import median, peer_arguments, run_json


def worker(arguments: argparse.Namespace) -> None:
    """Fit cold and warm, predict in bulk and one by one, alone and through the calculator; print JSON."""
    from ase import Atoms
    from ase.calculators.calculator import Calculator as Empty
    from ase.calculators.calculator import all_changes

    import mlff
    from descriptors import inverse_distances
    from mlff.quality.report import peak_memory_mb

    class Nothing(Empty):
        """An ASE calculator that costs only what ASE costs."""

        implemented_properties = ("energy", "forces")

        def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
            super().calculate(atoms, properties, system_changes)
            self.results = {"energy": 0.0, "forces": forces}

    def seconds(function, repeats: int) -> float:
        function()
        started = time.perf_counter()
        for _ in range(repeats):
            function()
        return (time.perf_counter() - started) / repeats

    data = mlff.Dataset.read(arguments.train, units="kcal/mol", index=f"0:{arguments.frames}")
    test = mlff.Dataset.read(arguments.test, units="kcal/mol")
    started = time.perf_counter()
    permutations = mlff.find_permutations(data)
    permutations_s = time.perf_counter() - started
    kernel = mlff.GlobalKernel(inverse_distances, mlff.Matern52(lengthscale=arguments.lengthscale), permutations)
    times = []
    for _ in range(2):
        started = time.perf_counter()
        force_field = mlff.fit(kernel, data)
        times.append(time.perf_counter() - started)
    positions = test.uniform_positions()
    evaluation = mlff.evaluate(force_field, test)
    one = positions[0]
    _, forces = force_field.energy_and_forces(one)
    results = {
        "permutations_s": permutations_s,
        "fit_cold_s": times[0],
        "fit_warm_s": times[1],
        "bulk_per_s": len(positions) / seconds(lambda: force_field.energy_and_forces(positions), 5),
        "single_ms": 1e3 * seconds(lambda: force_field.energy_and_forces(one), 2000),
        "forces_mae": evaluation.forces_mae,
        "energy_mae": evaluation.energy_mae,
    }
    for name, calculator in (("empty_ms", Nothing()), ("calculator_ms", mlff.Calculator(force_field))):
        atoms = Atoms(data.uniform_numbers(), one)
        atoms.calc = calculator

        def step(atoms=atoms):
            atoms.positions[0, 0] += 1e-9
            atoms.get_forces()

        results[name] = 1e3 * seconds(step, 2000)
    results["peak_mb"] = peak_memory_mb()
    print(json.dumps(results))


def main() -> None:
    parser = peer_arguments(__doc__)
    parser.add_argument("train"), parser.add_argument("test")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--lengthscale", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    ours, peers = [], {"NumPy": [], "PyTorch": []}
    here = [sys.executable, pathlib.Path(__file__), *sys.argv[1:], "--worker"]
    there = [arguments.peer_python, arguments.peer, arguments.train, arguments.test, "--train", arguments.frames]
    there += ["--sigma", int(arguments.lengthscale)]
    for _ in range(arguments.rounds):
        ours.append(run_json(here))
        peers["NumPy"].append(run_json(there))
        peers["PyTorch"].append(run_json([*there, "--torch"]))
    best = {
        key: pick((median(rows, key), name) for name, rows in peers.items())
        for key, pick in (("fit_s", min), ("peak_mb", min), ("bulk_per_s", max), ("single_ms", min), ("task_s", min))
    }
    force_mae = 1e3 * 0.0433641 * median(peers["NumPy"], "force_mae")
    mine = {key: median(ours, key) for key in ours[0]}
    print(f"{arguments.frames} frames, medians of {arguments.rounds} rounds in alternation\n")
    print("| quantity | this library | sGDML | ratio |\n| --- | --- | --- | --- |")
    rows = [
        ("fit with compilation (s)", mine["fit_cold_s"], *best["fit_s"], True),
        ("fit without (s)", mine["fit_warm_s"], *best["fit_s"], True),
        ("permutations (s)", mine["permutations_s"], *best["task_s"], True),
        ("peak memory (MB)", mine["peak_mb"], *best["peak_mb"], True),
        ("batch (geometries/s)", mine["bulk_per_s"], *best["bulk_per_s"], False),
        ("one geometry (ms)", mine["single_ms"], *best["single_ms"], True),
    ]
    for name, left, right, configuration, smaller in rows:
        ratio = right / left if smaller else left / right
        print(f"| {name} | {left:.4g} | {right:.4g} ({configuration}) | {ratio:.2f} |")
    print(f"| force MAE (meV/Å) | {1e3 * mine['forces_mae']:.2f} | {force_mae:.2f} | |")
    print(f"\nCalculator {mine['calculator_ms']:.4f} ms, an empty one {mine['empty_ms']:.4f} ms, forces alone "
          f"{mine['single_ms']:.4f} ms: it adds {mine['calculator_ms'] - mine['empty_ms'] - mine['single_ms']:.4f} ms")  # fmt: skip


if __name__ == "__main__":
    main()
