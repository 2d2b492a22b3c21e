"""Which engine has which request, and what happens to the requests of one that dies. Decisions only: no process, no clock."""

from collections import deque
from dataclasses import dataclass

WINDOW_S = 3600.0


@dataclass
class RequestCounts:
    """Requests of prompts. Of those that are not on their way, every one has exactly one answer."""

    requests: int = 0
    answers: int = 0
    resent: int = 0  # times that one was sent again, since its engine died
    restarts: int = 0  # engines that died


class TooManyDeaths(Exception):
    """More engines died within the window than is allowed; the argument is how many."""


class EngineLedger:
    """Engines are numbers from 0 on, all alive at the start; requests are any keys.

    More than `max_restarts` deaths within `window_s` seconds are too many.
    """

    def __init__(self, engines: int, max_restarts: int, window_s: float = WINDOW_S):
        self.living = set(range(engines))
        self.max_restarts, self.window_s = max_restarts, window_s
        self.counts = RequestCounts()
        self._held: dict[
            object, tuple[int | None, int]
        ] = {}  # request -> its engine, None while it waits for one; weight
        self._deaths: deque[float] = deque()

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return len(self._held)

    def send(self, request: object, weight: int = 1) -> int | None:
        """The living engine with the least to do takes the request, which is that much work; None: it waits for one."""
        if request in self._held:
            raise ValueError(f"request {request!r} has been sent and has no answer yet")
        self.counts.requests += 1
        return self._assign(request, weight)

    def answer(self, request: object, engine: int) -> bool:
        """An engine has answered: whether the answer counts. One of an engine that the request was taken from does not."""
        if self._held.get(request, (None, 0))[0] != engine:
            return False
        del self._held[request]
        self.counts.answers += 1
        return True

    def died(self, engine: int, now: float) -> dict[object, int | None]:
        """An engine is dead: its requests, each with the engine that has it now (None: none is alive).

        Raises TooManyDeaths. Nothing happens where it is known to be dead.
        """
        if engine not in self.living:
            return {}
        self.living.remove(engine)
        self._count_death(now)
        return self._reassign(engine)

    def died_again(self, engine: int, now: float) -> None:
        """A dead engine has not come up when it was started again, which is one more death. Raises TooManyDeaths."""
        assert engine not in self.living, "it lives"
        self._count_death(now)

    def _count_death(self, now: float) -> None:
        self.counts.restarts += 1
        self._deaths.append(now)
        while now - self._deaths[0] > self.window_s:
            self._deaths.popleft()
        if len(self._deaths) > self.max_restarts:
            raise TooManyDeaths(len(self._deaths))

    def back(self, engine: int) -> list[object]:
        """A dead engine lives again: the requests that it has now, those that no engine had."""
        self.living.add(engine)
        return list(self._reassign(None))

    def _reassign(self, engine: int | None) -> dict[object, int | None]:
        """Give the requests of one engine, or of none, to those that live."""
        moved = {request: weight for request, (holder, weight) in self._held.items() if holder == engine}
        self._held.update(dict.fromkeys(moved, (None, 0)))
        taken = {request: self._assign(request, weight) for request, weight in moved.items()}
        self.counts.resent += 0 if engine is None else len(taken)
        return taken

    def _assign(self, request: object, weight: int) -> int | None:
        load = dict.fromkeys(sorted(self.living), 0)
        for holder, work in self._held.values():
            if holder in load:
                load[holder] += work
        engine = min(load, key=lambda one: load[one], default=None)
        self._held[request] = engine, weight
        return engine
