"""The noise of groups of frames (`config_type` or `group`), where it is another than that of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mlff.arguments import require_positive


class FrameNoise(NamedTuple):
    """The standard deviation of labels of one kind, frame by frame: a factor of that of the kind, or its own.

    factors: (m,); stated: in the label's unit, NaN where it is not stated, (m,).
    """

    factors: Float[np.ndarray, " m"]
    stated: Float[np.ndarray, " m"]

    @classmethod
    def plain(cls, count: int) -> FrameNoise:
        """Of frames of which nothing is said."""
        return cls(np.ones(count), np.full(count, np.nan))

    @property
    def known(self) -> Float[np.ndarray, " _"]:
        """What is stated."""
        return self.stated[~np.isnan(self.stated)]

    def take(self, chosen) -> FrameNoise:
        """Of some of the frames."""
        return FrameNoise(self.factors[chosen], self.stated[chosen])

    def deviations(self, level: float) -> Float[np.ndarray, " m"]:
        """Standard deviations, where that of the kind is `level`."""
        return np.where(np.isnan(self.stated), self.factors * level, self.stated)

    def relative(self, unit: float) -> Float[np.ndarray, " m"]:
        """Factors, and what is stated in a unit."""
        return np.where(np.isnan(self.stated), self.factors, self.stated / unit)


@dataclasses.dataclass(frozen=True)
class GroupNoise:
    """What is said of the noise of groups.

    Attributes:
        factors: what the noise of all labels of a group is multiplied by, by its name.
        levels: the standard deviation of one kind of label of a group, by the names of both, in the label's unit.
    """

    factors: dict[str, float]
    levels: dict[tuple[str, str], float]

    @classmethod
    def of(cls, given, data, labels: Sequence[str]) -> GroupNoise:
        """From what a user gives, {"Surface": 2.0, "Surface:energy": 0.002}.

        Arguments:
            data: the data set whose frames tell their groups.
            labels: names of what is fitted.
        Raises:
            ValueError: no positive numbers by name, groups or labels that no frame has, or labels that are not fitted.
        """
        if not isinstance(given, Mapping):
            raise ValueError(
                f"group_noise={given!r:.60} must be numbers by the name of a group, {{'Surface': 2.0}}, or of a group and a label, "
                "{'Surface:energy': 0.002}"
            )
        known: dict[str, set[str]] = {}
        for frame in data:
            if frame.group is not None:
                has = {name for name in labels if np.size(frame.labels.get(name, ()))}
                known.setdefault(frame.group, set()).update(has)
        factors, levels = {}, {}
        for name, value in given.items():
            if name in known:  # a name may hold a colon of its own
                require_positive(f"group_noise of {name}", value, ", what the noise of its frames is multiplied by")
                factors[name] = float(value)
                continue
            group, _, label = name.rpartition(":")
            _require_known(data.source, name, group, label, known, labels)
            require_positive(f"group_noise of {name}", value, f", the standard deviation of {label} in {group}")
            levels[group, label] = float(value)
        return cls(factors, levels)

    def summary(self) -> dict[str, dict[str, float]]:
        """What the record says."""
        stated = {f"{group}:{label}": level for (group, label), level in self.levels.items()}
        return {"factors": self.factors, "stated": stated}

    def of_frames(self, groups: Sequence[str | None], names: Sequence[str]) -> dict[str, FrameNoise]:
        """Of frames of some groups that have some labels, by the labels' names."""
        factors = np.array([self.factors.get(group, 1.0) for group in groups])
        stated = {name: np.array([self.levels.get((group, name), np.nan) for group in groups]) for name in names}
        return {name: FrameNoise(factors, levels) for name, levels in stated.items()}


def _require_known(
    source: str, name: str, group: str, label: str, known: Mapping[str, set[str]], labels: Sequence[str]
) -> None:
    """Refuse a group that no frame is of, a label that is not fitted, and one that the group lacks."""
    if group not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "no frame says config_type or group"
        raise ValueError(f"group_noise: {source} has no group {group or name!r}; {there}")
    if label not in labels:
        raise ValueError(
            f"group_noise: {name!r}, but {label!r} is not fitted; write {group}: and one of {', '.join(labels)}"
        )
    if label not in known[group]:
        raise ValueError(f"group_noise: {name!r}, but no frame of {group} has {label}; leave it out")
