"""What a step of tuning costs: the objective with its gradient against the objective alone, and its memory against that of the fit.

    python tests/benchmarks/tuning.py [--frames 60 200] [--models sgdml fchl19-gpr sgdml+soap] [--objectives left-out folds evidence]
        [--arguments "*"] [--memory 700MB]

Frames of `datasets/ethanol.extxyz`, energies and forces, 22 rows each. A JSON line for every combination: rows, how many numbers are
tuned, the medians over pairs of seconds for the objective and for the objective with its gradient, their ratio, and the peak memory
(MB) of a process that takes the gradient twice beside that of one that fits the same model. With --memory, tuning keeps to it.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np

LABELS = ("energy", "forces")
DATA = pathlib.Path(__file__).parents[2] / "datasets" / "ethanol.extxyz"
PAIRS = 5


def frames(count: int):
    import mlff

    return mlff.Dataset.read(DATA, index=f":{count}")


def kernel_of(name: str, data):
    import mlff

    kernel, _ = mlff.recipe(name, data)
    return kernel


def prepared(name: str, count: int, objective: str, memory: str | None, arguments: list[str]):
    from mlff.regression.tuning.task import Task

    data = frames(count)
    given = kernel_of(name, data), data, LABELS, None, None, None, None
    task = Task.of(*given, objective, arguments, 0, memory)
    problem = task.problem(task.drawn(task.rows()))
    model = problem.started(2.0, None, 1e-2)
    numbers = model.hyperparameters(problem.sizes, problem.limits)
    # as after a step: where the search begins, frames are in descriptor space already
    values = [h.start * (1.001 if h.kind == "argument" else 1.0) for h in numbers]
    return problem, model.replaced(numbers, np.array(values)), numbers


def timed(name: str, count: int, objective: str, memory: str | None, arguments: list[str]) -> dict:
    problem, model, numbers = prepared(name, count, objective, memory, arguments)
    alone, both = [], []
    for k in range(PAIRS + 1):
        started = time.perf_counter()
        problem.assessed(model)
        between = time.perf_counter()
        problem.with_gradient(model, numbers)
        if k:  # the first compiles
            alone.append(between - started)
            both.append(time.perf_counter() - between)
    rows = len(problem.system(model, problem.features).labels)
    seconds = {"objective_s": statistics.median(alone), "with_gradient_s": statistics.median(both)}
    return {
        "rows": rows,
        "numbers": len(numbers),
        **seconds,
        "ratio": seconds["with_gradient_s"] / seconds["objective_s"],
    }


def apart(what: str, name: str, count: int, objective: str, memory: str | None, arguments: list[str]):
    """What a process of its own says, of times or of its memory, MB."""
    typed = [sys.executable, __file__, "--one", what, name, str(count), objective, memory or "", *arguments]
    return json.loads(subprocess.run(typed, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def one(what: str, name: str, count: str, objective: str, memory: str, *arguments: str) -> None:
    from mlff.quality.report import peak_memory_mb

    if what == "time":
        return print(json.dumps(timed(name, int(count), objective, memory or None, list(arguments))))
    if what == "tune":
        problem, model, numbers = prepared(name, int(count), objective, memory or None, list(arguments))
        for _ in range(2):
            problem.with_gradient(model, numbers)
    else:
        import mlff

        data = frames(int(count))
        mlff.fit(kernel_of(name, data), data, LABELS)
    print(peak_memory_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[60, 200])
    parser.add_argument("--models", nargs="+", default=["sgdml", "fchl19-gpr", "sgdml+soap"])
    parser.add_argument("--objectives", nargs="+", default=["left-out", "folds", "evidence"])
    parser.add_argument("--arguments", nargs="*", default=[])
    parser.add_argument("--memory", help="of tuning, such as 700MB")
    given = parser.parse_args()
    for count in given.frames:
        for name in given.models:
            for objective in given.objectives:
                case = name, count, objective, given.memory, given.arguments
                memory = {f"{what}_mb": apart(what, *case) for what in ("tune", "fit")}
                told = {"model": name, "frames": count, "objective": objective, **apart("time", *case), **memory}
                print(
                    json.dumps({**told, "memory_ratio": memory["tune_mb"] / memory["fit_mb"]}),
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        main()
