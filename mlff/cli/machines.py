"""What `mlff fit --devices` names: JAX devices of this process, or of several that are joined."""

from __future__ import annotations

from typing import Annotated

import typer

LONG = 7 * 24 * 3600  # s, that a process may wait at its end for the one that tests and writes

Devices = Annotated[
    str | None,
    typer.Option(
        help="JAX devices that share the fit, all or a number; else the processors of this host, or its GPUs for large fits.",
        metavar="all|N",
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        help="The first of several processes that share the fit: the same command in each, but for --process.",
        metavar="HOST:PORT",
    ),
]
Process = Annotated[int | None, typer.Option(help="Which of these processes this is, from 0, which writes the model.")]
Processes = Annotated[int | None, typer.Option(help="How many they are.")]


def joined(devices: str | None, coordinator: str | None, process: int | None, processes: int | None) -> tuple:
    """The devices that are named, and which of several processes this is, after the others were met; 0 where it is the only one.

    Raises:
        ValueError: options that do not belong together, or nobody was met.
    """
    named = {"--coordinator": coordinator, "--process": process, "--processes": processes}
    if coordinator is None and process is None and processes is None:
        return devices, 0
    for option, value in named.items():
        if value is None:
            raise ValueError(f"{option}: is missing; --coordinator HOST:PORT --process I --processes N belong together")
    if processes < 1 or not 0 <= process < processes:
        raise ValueError(f"--process {process} --processes {processes}: must be one of 0 … N − 1, and N at least 1")
    if devices not in (None, "all"):
        raise ValueError(f"--devices {devices}: joined processes share all of theirs; leave --devices out")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"--coordinator {coordinator}: must be HOST:PORT, of the process with --process 0")
    import jax

    typer.echo(f"process {process}: waiting for {processes} processes at {coordinator}", err=True)
    try:
        jax.distributed.initialize(coordinator, processes, process, shutdown_timeout_seconds=LONG)
    except RuntimeError as error:
        raise ValueError(
            f"--coordinator {coordinator}: the {processes} processes did not meet ({str(error).splitlines()[0]})"
        ) from error
    return "all", process
