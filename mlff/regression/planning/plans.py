"""What a plan of a fit says: the method, and what its stages take."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a fit.

    Attributes:
        memory: bytes at its peak, of the whole process.
        seconds: None where nothing was measured.
    """

    name: str
    memory: int
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a fit, or the search for hyperparameters before it, will be done.

    Attributes:
        method: "exact", "iterative" or "sparse"; "tune" of a search.
        frames: of the fit.
        unknowns: rows of its linear system; of a sparse model its functionals.
        rank: of the preconditioner at most; None for the other methods.
        budget: bytes that the process may take.
        stages: one after the other.
        reason: why this method.
        searched: frames that the search for a length scale may fit; None for as many as it likes.
        groups: of frames, whose noise a sparse fit finds apart.
    """

    method: str
    frames: int
    unknowns: int
    rank: int | None
    budget: int
    stages: tuple[Stage, ...]
    reason: str
    searched: int | None = None
    groups: int = 0

    @property
    def memory(self) -> int:
        """Bytes of the whole process at its peak."""
        return max(stage.memory for stage in self.stages)

    @property
    def seconds(self) -> float | None:
        """Of all stages; None where nothing was measured."""
        times = [stage.seconds for stage in self.stages]
        return None if None in times else float(sum(times))

    def without(self, name: str) -> Plan:
        """Where a stage has nothing left to do."""
        return dataclasses.replace(self, stages=tuple(stage for stage in self.stages if stage.name != name))

    def summary(self) -> dict:
        """As plain data, for JSON."""
        return {**dataclasses.asdict(self), "memory": self.memory, "seconds": self.seconds}

    @classmethod
    def of(cls, summary: dict) -> Plan:
        """From plain data."""
        fields = {field.name: summary[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**fields, "stages": tuple(Stage(**stage) for stage in summary["stages"])})

    def __str__(self) -> str:
        rank = "" if self.rank is None else f", preconditioner of rank {self.rank}"
        time = "" if self.seconds is None else f", about {self.seconds:.0f} s"
        head = (
            f"{self.method}: {self.unknowns} unknowns of {self.frames} frames{rank}; {text_of(self.memory)} of "
            f"{text_of(self.budget)}{time} ({self.reason})"
        )
        lines = [
            f"  {stage.name:<13}{text_of(stage.memory):>10}"
            + ("" if stage.seconds is None else f"{stage.seconds:>9.1f} s")
            for stage in self.stages
        ]
        return "\n".join([head, *lines])


def text_of(size: int) -> str:
    """Bytes as they are written."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
