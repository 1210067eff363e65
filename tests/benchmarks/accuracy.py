"""Errors beside sGDML's own on rMD17, same frames, length scale found by the fit.

    python tests/benchmarks/accuracy.py DIR --peer sgdml_reference.py --peer-python VENV/bin/python

DIR holds rmd17_NAME_train_01.npz and rmd17_NAME_test_01.npz. sGDML's is the best of σ = 10, 20.
"""

import itertools
import sys
import tempfile

from peers import peer_arguments, run_json

MOLECULES = ("ethanol", "malonaldehyde", "uracil", "toluene", "benzene")
KCAL = 43.3641  # meV per kcal/mol


def main() -> None:
    parser = peer_arguments(__doc__)
    parser.add_argument("folder")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--kernel", default="matern52")
    arguments = parser.parse_args()
    print(f"first {arguments.frames} training frames, 1000 test frames; energy (meV) / force (meV/Å) MAE\n")
    print(
        "| molecule | sGDML | this library | force ratio | permutations | length scale |\n| --- | --- | --- | --- | --- | --- |"
    )
    for name in MOLECULES:
        train, test = (f"{arguments.folder}/rmd17_{name}_{part}_01.npz" for part in ("train", "test"))
        runs = [
            run_json(
                [arguments.peer_python, arguments.peer, train, test, "--train", arguments.frames, "--sigma", sigma]
            )
            for sigma in (10, 20)
        ]
        peer = min(runs, key=lambda run: run["force_mae"])
        with tempfile.TemporaryDirectory() as scratch:
            options = {
                "--frames": f"0:{arguments.frames}", "--test": test, "--units": "kcal/mol",
                "--kernel": arguments.kernel, "--out": f"{scratch}/{name}.mlff",
            }  # fmt: skip
            ours = run_json([sys.executable, "-m", "mlff", "fit", train, "--json", *itertools.chain(*options.items())])
        energy, force = KCAL * peer["energy_mae"], KCAL * peer["force_mae"]
        print(
            f"| {name} | {energy:.2f} / {force:.2f} | {1e3 * ours['energy_mae']:.2f} / {1e3 * ours['forces_mae']:.2f} "
            f"| {1e3 * ours['forces_mae'] / force:.3f} | {ours['permutations']} | {ours['lengthscale']:.3g} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
