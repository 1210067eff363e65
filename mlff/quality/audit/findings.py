"""Finding: what one examination of a descriptor measured, where, and what to change."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Finding:
    """One property of a descriptor.

    Attributes:
        name: of the property, "rotation", "continuity 2", …
        number: what was measured; relative to the usual size of a feature (or of its derivative) unless the text says otherwise.
        limit: the largest number that passes.
        text: what was found, where, and what to change.
        passed: whether the property holds.
    """

    name: str
    number: float
    limit: float
    text: str
    passed: bool

    @classmethod
    def of(cls, name: str, number: float | int, limit: float, text: str, cure: str = "") -> Finding:
        """A finding that passes when the number is no more than the limit, else with a cure; one that is not a number never does."""
        passed = bool(number <= limit)
        return cls(name, float(number), float(limit), text if passed or not cure else f"{text}; {cure}", passed)

    def row(self) -> tuple[str, str, str, str, str]:
        """Name, verdict, number, limit and text, as a table shows them."""
        return (self.name, "passed" if self.passed else "FAILED", _short(self.number), _short(self.limit), self.text)

    def to_json(self) -> dict[str, str | float | bool | None]:
        """Plain values; numbers that are not finite become None, as JSON has none."""
        content = dataclasses.asdict(self)
        return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in content.items()}


def worst(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """One finding a name, in the order of first appearance: one that failed, else the one with the largest number."""
    chosen: dict[str, Finding] = {}
    for finding in findings:
        kept = chosen.setdefault(finding.name, finding)
        if (kept.passed, finding.number) > (finding.passed, kept.number):
            chosen[finding.name] = finding
    return tuple(chosen.values())


def _short(number: float) -> str:
    return "—" if math.isinf(number) and number > 0 else f"{number:.2g}"
