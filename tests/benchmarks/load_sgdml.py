"""A model that sGDML trained, predicted by sGDML itself and by this library: how far apart, and how fast.

    python tests/benchmarks/load_sgdml.py MODEL.npz TEST.npz --peer-python VENV/bin/python

MODEL is what sgdml wrote; TEST holds geometries in Å (`coords` as in rMD17, or `R`). sGDML runs in a process of its own, by NumPy
processes (tuned by its own `prepare_parallel`) and by PyTorch; it and this library take turns, and medians of the rounds and
sGDML's faster way are compared. Numbers are compared with its NumPy way: PyTorch's are in single precision.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

import numpy as np
from peers import median, run_json

import mlff
from mlff.units import parse_units

PEER = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np
from sgdml.predict import GDMLPredict

model, geometries, predictions, way = sys.argv[1:]
flat = np.load(geometries)["positions"]
flat = flat.reshape(len(flat), -1)
predict = GDMLPredict(dict(np.load(model, allow_pickle=True)), use_torch=way == "PyTorch")

def tune(count):
    if way != "PyTorch":
        predict.prepare_parallel(n_bulk=count)

tune(len(flat))
energies, forces = predict.predict(flat)
started = time.perf_counter()
predict.predict(flat)
bulk = len(flat) / (time.perf_counter() - started)
tune(1)
for i in range(20):
    predict.predict(flat[i : i + 1])
started = time.perf_counter()
for i in range(200):
    predict.predict(flat[i % len(flat)][None])
single = (time.perf_counter() - started) / 200
np.savez(predictions, energies=energies, forces=forces)
print(json.dumps({"bulk_per_s": bulk, "single_ms": 1e3 * single}))
"""


def ours(force_field: mlff.ForceField, positions: np.ndarray) -> dict:
    """Geometries a second in one batch, and milliseconds for one geometry after the other."""
    force_field.energy_and_forces(positions), force_field.energy_and_forces(positions[0])
    started = time.perf_counter()
    force_field.energy_and_forces(positions)
    bulk = len(positions) / (time.perf_counter() - started)
    started = time.perf_counter()
    for i in range(200):
        force_field.energy_and_forces(positions[i % len(positions)])
    return {"bulk_per_s": bulk, "single_ms": 1e3 * (time.perf_counter() - started) / 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path), parser.add_argument("test", type=pathlib.Path)
    parser.add_argument("--peer-python", type=pathlib.Path, required=True, help="a Python with sgdml installed")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with np.load(arguments.test) as test:
        positions = np.asarray(test["coords" if "coords" in test.files else "R"], dtype=float)[: arguments.frames]
    with np.load(arguments.model) as model:
        energy_unit, length_unit = parse_units(f"{model['e_unit']}/{model['r_unit']}")
        ways = (
            ("NumPy",) if "alphas_E" in model.files else ("PyTorch", "NumPy")
        )  # sgdml 1.0.3 fails on those in PyTorch
    started = time.perf_counter()
    force_field = mlff.load_sgdml(arguments.model)
    seconds = time.perf_counter() - started
    mine, peers = [], {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        geometries = pathlib.Path(folder, "geometries.npz")
        np.savez(geometries, positions=positions / length_unit)
        for _ in range(arguments.rounds):
            mine.append(ours(force_field, positions))
            for way in ways:
                predictions = pathlib.Path(folder, f"{way}.npz")
                peer = [arguments.peer_python, "-c", PEER, arguments.model, geometries, predictions, way]
                peers[way].append(run_json(peer))
        with np.load(pathlib.Path(folder, "NumPy.npz")) as theirs:
            energies = energy_unit * theirs["energies"]
            forces = energy_unit / length_unit * theirs["forces"].reshape(positions.shape)
    found = force_field.energy_and_forces(positions)
    summary = {"frames": len(positions), "load_s": seconds, "force_field": repr(force_field)}
    print(f"{force_field}, read in {seconds:.2f} s; {len(positions)} geometries\n")
    print(
        "| compared with sGDML | largest difference | of the largest value | of the range |\n| --- | --- | --- | --- |"
    )
    for name, unit, reference, own in zip(("energy", "forces"), ("eV", "eV/Å"), (energies, forces), found, strict=True):
        worst = float(np.abs(own - reference).max())
        relative, of_range = worst / float(np.abs(reference).max()), worst / float(np.ptp(reference))
        summary[name] = {"absolute": worst, "relative": relative, "of_range": of_range}
        print(f"| {name} ({unit}) | {worst:.1e} | {relative:.1e} | {of_range:.1e} |")
    print("\n| speed | this library | sGDML | ratio |\n| --- | --- | --- | --- |")
    for name, key, best in (("batch (geometries/s)", "bulk_per_s", max), ("one geometry (ms)", "single_ms", min)):
        here = median(mine, key)
        there, way = best((median(peers[way], key), way) for way in ways)
        summary[key] = {"ours": here, "sgdml": there, "way": way}
        print(f"| {name} | {here:.4g} | {there:.4g} ({way}) | {here / there if best is max else there / here:.1f} |")
    print("\n" + json.dumps(summary))
    if max(summary[name]["relative"] for name in ("energy", "forces")) > 1e-8:
        sys.exit("sGDML and this library differ by more than 1e-8")


if __name__ == "__main__":
    main()
