"""Tables of the parts that have a name in the command: partitions, estimators, advantages, normalizers, metrics, tasks."""

from collections.abc import Callable
from typing import TypeVar

Part = TypeVar("Part")


class Registry(dict[str, Part]):
    """Parts by name. `noun` says what they are: "partition".

    A part joins by being written into the table, or, from a file of the user's own, by ``@TABLE.register("name")``.
    """

    def __init__(self, noun: str, parts: dict[str, Part] | None = None):
        super().__init__(parts or {})
        self.noun = noun

    def register(self, name: str) -> Callable[[Part], Part]:
        """Decorator that enters a part under ``name``. Raises ValueError where the name is taken."""
        if name in self:
            raise ValueError(f"there is a {self.noun} {name!r} already: give yours another name")

        def enter(part: Part) -> Part:
            self[name] = part
            return part

        return enter

    def choose(self, name: str) -> Part:
        """The part of that name. Raises ValueError for an unknown one, naming those there are."""
        if name not in self:
            raise ValueError(f"unknown {self.noun} {name!r}: choose one of {', '.join(self)}")
        return self[name]
