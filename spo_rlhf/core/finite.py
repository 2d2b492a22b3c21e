"""Numbers that are not finite: where the first of them stands, what is told of it, and when a run is given up."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

IN_A_ROW = 3  # skips without an optimizer step between them, at which a run ends
AROUND = 8  # values that are told to both sides of one
MOST = 4  # samples that are told of one step


@dataclass(frozen=True)
class Fault:
    """A number that is not finite and the sample that it belongs to. `position` counts from the first response token."""

    number: str  # what it is: "reward", "log-prob", "advantage", "loss", "gradient norm", ...
    value: float
    context_ids: Sequence[int] = ()  # (P,) what the response followed
    token_ids: Sequence[int] = ()  # (T,) the response
    position: int | None = None  # None: the number is of the whole sample, or of more than it
    start: int = 0  # of the response token that the first of each of `around` belongs to
    around: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def at_token(cls, number: str, position: int, values_T: Mapping[str, Sequence[float]], **sample: Any) -> "Fault":
        """Of `values_T[number][position]`; `values_T` has the (T,) values of the sample, of which the nearest are told."""
        start = max(position - AROUND, 0)
        around = {
            name: [float(value) for value in value_T[start : position + AROUND + 1]]
            for name, value_T in values_T.items()
        }
        return cls(number, float(values_T[number][position]), position=position, start=start, around=around, **sample)


def first(value_T: Iterable[float]) -> int | None:
    """Position of the first value that is not finite, None where all are."""
    return next((position for position, value in enumerate(value_T) if not math.isfinite(value)), None)


def with_zeros(value_T: Iterable[float]) -> list[float]:
    """The values, 0 in place of those that are not finite."""
    return [value if math.isfinite(value) else 0.0 for value in value_T]


def speakable(value: Any) -> Any:
    """A tree of lists and dicts for JSON, which has no word for these numbers: they become "nan", "inf" and "-inf"."""
    if isinstance(value, dict):
        return {name: speakable(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [speakable(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def finite_only(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics without the numbers that are not finite; what is no number stays."""
    return {name: value for name, value in metrics.items() if not isinstance(value, float) or math.isfinite(value)}


@dataclass
class Streak:
    """Skips since the last optimizer step that was made."""

    length: int = 0
    hopeless: bool = False  # it has been IN_A_ROW long

    def add(self, made: Iterable[bool]) -> None:
        """What became of further optimizer steps, in their order."""
        for one in made:
            self.length = 0 if one else self.length + 1
            self.hopeless = self.hopeless or self.length >= IN_A_ROW
