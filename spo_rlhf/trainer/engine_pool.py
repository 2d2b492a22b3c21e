"""On the controller: requests out to the engines and answers back, also where an engine dies, hangs or lacks memory.

A dead engine is started again by Ray, with the weights of the model's folder. It gets the present ones before its first request;
until then the others go on, and its requests are theirs. An engine has one set of weights and says which; it refuses a request
meant for another. Where the policy was trained meanwhile, an engine that is started again is ahead of the others until the next weights.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from spo_rlhf.errors import RunStopped
from spo_rlhf.rollout.job import RolloutRequest
from spo_rlhf.rollout.ledger import EngineLedger, RequestCounts, TooManyDeaths
from spo_rlhf.rollout.records import Rollout
from spo_rlhf.trainer.events import Reporter

BEAT_S = 5.0  # between two signs of life, unless the limit is lower
RETRY_S = 1.0
START_LIMIT_S = 1800.0  # all engines have to answer within these when the run starts
# One that is started again has longer than that took, and than its other silences may: another start competes with it for the disk.
STARTS_AGAIN, TIMEOUTS_AGAIN = 3, 2
FINAL_TRIES = 10  # answers in a row that an engine will not start again


class EngineGone(Exception):
    """An engine cannot answer. `runs`: its process may still be there; `final`: Ray will not start it again."""

    def __init__(self, why: str, *, runs: bool = False, final: bool = False):
        super().__init__(why)
        self.runs, self.final = runs, final


class EngineCalls(Protocol):
    """Calls to engines, which are numbers here (trainer/engine_calls.py has those through Ray)."""

    def call(self, engine: int, method: str, *args: Any) -> Hashable:
        """Begin a call; a handle of its result."""
        ...

    def ready(self, handles: Sequence[Hashable], limit_s: float) -> Sequence[Hashable]:
        """Those of the handles that have a result, after `limit_s` seconds at the latest if there is none yet."""
        ...

    def result(self, handle: Hashable) -> Any:
        """Result of a call. Raises EngineGone, or what the call raised."""
        ...

    def kill(self, engine: int) -> None:
        """End the engine's process; it is started again."""
        ...

    def send_weights(self, engines: Sequence[int]) -> Hashable:
        """Begin to send the policy's weights; the result is (their version, bytes of one copy, engines that did not take them)."""
        ...

    def weights_sent(self, handle: Hashable) -> tuple[int, int, list[int]]:
        """Result of `send_weights`."""
        ...

    def broadcast(self, engines: Sequence[int]) -> tuple[int, int, list[int]]:
        """Send them and wait for it; as `send_weights`."""
        ...


@dataclass
class _Call:
    kind: str  # "rollout", "beat", "about", "weights"
    engine: int
    since: float
    request: int = -1


@dataclass
class _Revival:
    since: float
    next_try: float
    asked: bool = False  # a call is on its way
    sent: bool = False  # the weights have been sent
    version: int = 0  # of those
    refused: int = 0  # answers in a row that it will not start


class EnginePool:
    """`timeout_s`: an engine that gives no sign of life for so long is dead."""

    def __init__(
        self,
        calls: EngineCalls,
        ledger: EngineLedger,
        reporter: Reporter,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.calls, self.ledger, self.reporter, self.timeout_s, self.clock = calls, ledger, reporter, timeout_s, clock
        self.version = 0  # policy updates behind the weights that the engines should have, at least
        self._versions: dict[int, int] = {}  # of an engine's, where it has later ones
        self._requests: dict[int, RolloutRequest] = {}
        self._sent = 0  # requests since the start, the name of the next
        self._calls: dict[Hashable, _Call] = {}
        self._dead: dict[int, _Revival] = {}
        self._identity: dict[int, str] = {}
        self._slowest_start_s = 0.0
        self._taken = RequestCounts()
        self._bytes = 0  # of weights that engines have taken, since the last metrics
        self._last_look = self._last_beat = float("-inf")
        self._too_many = ""  # why the run has to end, once more engines died than may

    # ---- requests ----------------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Requests without an answer."""
        return self.ledger.pending

    def submit(self, request: RolloutRequest) -> None:
        """Send a request to the engine with the least to do."""
        name, self._sent = self._sent, self._sent + 1
        self._requests[name] = request
        self._ask(name, self.ledger.send(name, request.num_samples))

    def take(self, limit_s: float) -> list[tuple[RolloutRequest, Rollout]]:
        """Requests with the answers that have come, after `limit_s` seconds at the latest; each once. Raises RunStopped.

        What an engine raised is raised here, unless it was its death. Too many deaths end the run here and nowhere else: those
        in a training step, by new weights, let the step come to its end.
        """
        self._look()
        self._stop_if_too_many()
        limit_s = min(limit_s, RETRY_S if self._dead else self._beat_s)
        answers = []
        for handle in self.calls.ready(list(self._calls), limit_s):
            call = self._calls.pop(handle, None)
            if call is None:  # of an engine that died meanwhile
                continue
            if call.kind == "weights":
                self._weights_sent(call.engine, *self.calls.weights_sent(handle))
                continue
            try:
                value = self.calls.result(handle)
            except EngineGone as gone:
                if call.kind == "about":
                    self._not_up_yet(call.engine, gone)
                else:
                    self._bury(call.engine, str(gone), kill=gone.runs)
                    self._stop_if_too_many()
                continue
            if call.kind == "rollout" and self.ledger.answer(call.request, call.engine):
                answers.append((self._requests.pop(call.request), value))
            elif call.kind == "about":
                self._answers_again(call.engine, *value)
        return answers

    def take_counts(self) -> dict[str, int]:
        """Metrics: requests, and what else passed between here and the engines, since the last call."""
        untold, self._taken, self._bytes = self.untold(), RequestCounts(**vars(self.ledger.counts)), 0
        return {
            "rollout/weight_bytes": untold["bytes"],
            "rollout/requests": untold["requests"],
            "rollout/answers": untold["answers"],
            "rollout/requests_resent": untold["resent"],
            "rollout/engine_restarts": untold["restarts"],
        }

    def untold(self) -> dict[str, int]:
        """What the next `take_counts` will tell, for a checkpoint: the requests of an evaluation behind the last step."""
        now, before = vars(self.ledger.counts), vars(self._taken)
        return {name: now[name] - before[name] for name in now} | {"bytes": self._bytes}

    def go_on_from(self, untold: dict[str, int]) -> None:
        """The next `take_counts` also tells what `untold` was, and nothing of what it took to get here."""
        now, self._bytes = vars(self.ledger.counts), untold["bytes"]
        self._taken = RequestCounts(**{name: now[name] - untold[name] for name in now})

    def report_rest(self) -> None:
        """Tell the record of the requests that no step will tell of."""
        self.reporter.send("engines", metrics=self.take_counts())

    def _ask(self, name: int, engine: int | None) -> None:
        if engine is not None:
            version = self._versions.get(engine, self.version)
            handle = self.calls.call(engine, "rollout", self._requests[name], version)
            self._calls[handle] = _Call("rollout", engine, self.clock(), name)

    # ---- engines -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Wait until all engines answer. Raises RunStopped, or what one raised at its start."""
        handles = {self.calls.call(engine, "about"): engine for engine in sorted(self.ledger.living)}
        deadline = self.clock() + START_LIMIT_S
        while handles and self.clock() < deadline:
            for handle in self.calls.ready(list(handles), RETRY_S):
                engine = handles.pop(handle)
                try:
                    self._identity[engine], _, seconds = self.calls.result(handle)
                    self._slowest_start_s = max(self._slowest_start_s, seconds)
                except EngineGone as gone:
                    raise RunStopped(f"engine {engine} did not start: it {gone}") from None
        if handles:
            raise RunStopped(f"engines {sorted(handles.values())} did not start within {START_LIMIT_S:g} s")

    def ask(self, method: str, *args: Any) -> list[Any]:
        """Results of a method of all living engines. One that does not answer in time is dead, and missing."""
        calls = {self.calls.call(engine, method, *args): engine for engine in sorted(self.ledger.living)}
        deadline, results = self.clock() + self.timeout_s, {}
        while len(results) < len(calls) and self.clock() < deadline:
            for handle in self.calls.ready([one for one in calls if one not in results], RETRY_S):
                try:
                    results[handle] = (self.calls.result(handle),)
                except EngineGone as gone:
                    results[handle] = ()
                    self._bury(calls[handle], str(gone), kill=gone.runs)
        for handle, engine in calls.items():
            if handle not in results:
                self._bury(engine, self._silence, kill=True)
        return [value for result in results.values() for value in result]

    def broadcast(self) -> None:
        """New weights to the living engines; one that did not take them whole is dead."""
        engines = sorted(self.ledger.living)
        self.version, size, failed = self.calls.broadcast(engines)
        self._bytes += size * (len(engines) - len(failed))
        self._versions.clear()
        for engine in failed:
            self._bury(engine, "did not take new weights", kill=True)

    def settle(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until all engines live; `check` is called meanwhile, and may raise."""
        while self._dead:
            assert not self.take(RETRY_S), "there are no requests"
            check()

    @property
    def _beat_s(self) -> float:
        return min(BEAT_S, self.timeout_s / 2)

    @property
    def restart_limit_s(self) -> float:
        """For an engine that is started again, from its death to its first request."""
        return STARTS_AGAIN * self._slowest_start_s + TIMEOUTS_AGAIN * self.timeout_s

    @property
    def _silence(self) -> str:
        return f"gave no sign of life for {self.timeout_s:g} s (--spo.engine_timeout)"

    def _look(self) -> None:
        """Ask the living for a sign of life, see who has given none, and go on with the start of the dead."""
        now = self.clock()
        beats = {call.engine: call for call in self._calls.values() if call.kind == "beat"}
        if now - self._last_look > 2 * self._beat_s:  # nobody has looked at answers meanwhile
            for call in beats.values():
                call.since = now
            for revival in self._dead.values():
                revival.since += now - max(revival.since, self._last_look)
        self._last_look = now
        for engine, call in beats.items():
            if now - call.since > self.timeout_s:
                self._bury(engine, self._silence, kill=True)
        if now - self._last_beat >= self._beat_s:
            self._last_beat = now
            for engine in self.ledger.living - set(beats):
                self._calls[self.calls.call(engine, "heartbeat")] = _Call("beat", engine, now)
        for engine, revival in list(self._dead.items()):
            if now - revival.since > self.restart_limit_s:
                self._start_once_more(engine, now)
            elif not revival.asked and now >= revival.next_try:
                revival.asked = True
                self._calls[self.calls.call(engine, "about")] = _Call("about", engine, now)

    def _bury(self, engine: int, why: str, *, kill: bool) -> None:
        """An engine is dead: it is started again, its requests go to others."""
        if engine not in self.ledger.living:
            return
        now = self.clock()
        try:
            moved = self.ledger.died(engine, now)
        except TooManyDeaths as deaths:
            self._end_by(engine, why, deaths)
            return
        self._revive(engine, now, kill=kill)
        self.reporter.note(f"engine {engine} {why}: it is started again, {len(moved)} requests are sent again")
        for name, to in moved.items():
            self._ask(int(str(name)), to)

    def _start_once_more(self, engine: int, now: float) -> None:
        """An engine that was started again hangs while it starts, or waits for weights that do not come."""
        why = f"died and was not up again within {self.restart_limit_s:.0f} s"
        try:
            self.ledger.died_again(engine, now)
        except TooManyDeaths as deaths:
            self._end_by(engine, why, deaths)
            return
        self._revive(engine, now, kill=True)
        self.reporter.note(f"engine {engine} {why}: it is started once more")

    def _revive(self, engine: int, now: float, *, kill: bool) -> None:
        self._calls = {handle: call for handle, call in self._calls.items() if call.engine != engine}
        self._dead[engine] = _Revival(since=now, next_try=now)
        if kill:
            self.calls.kill(engine)

    def _end_by(self, engine: int, why: str, deaths: TooManyDeaths) -> None:
        self._too_many = (
            f"engine {engine} {why}; {deaths} engines died within {self.ledger.window_s / 60:g} minutes, more than "
            f"--spo.max_engine_restarts {self.ledger.max_restarts}"
        )

    def _stop_if_too_many(self) -> None:
        if self._too_many:
            self.report_rest()
            raise RunStopped(self._too_many)

    def _not_up_yet(self, engine: int, gone: EngineGone) -> None:
        revival = self._dead[engine]
        revival.asked, revival.next_try = False, self.clock() + RETRY_S
        revival.refused = revival.refused + 1 if gone.final else 0
        if revival.refused >= FINAL_TRIES:
            raise RunStopped(f"engine {engine} died and does not start again: {gone}")

    def _answers_again(self, engine: int, identity: str, version: int | None, seconds: float) -> None:
        revival = self._dead[engine]
        self._slowest_start_s = max(self._slowest_start_s, seconds)
        revival.refused = 0
        if identity == self._identity[engine]:  # the process that was given up, with requests that are others' by now
            self.calls.kill(engine)
            revival.asked, revival.next_try = False, self.clock() + RETRY_S
        elif revival.sent and version == revival.version >= self.version:
            self._identity[engine], self._versions[engine] = identity, revival.version
            del self._dead[engine]
            for name in self.ledger.back(engine):
                self._ask(int(str(name)), engine)
            self.reporter.note(f"engine {engine} is back after {self.clock() - revival.since:.0f} s")
        else:
            self._calls[self.calls.send_weights([engine])] = _Call("weights", engine, self.clock())

    def _weights_sent(self, engine: int, version: int, size: int, failed: list[int]) -> None:
        revival = self._dead[engine]
        self._bytes += 0 if failed else size
        revival.sent, revival.version = not failed, version
        revival.asked, revival.next_try = False, self.clock() + (RETRY_S if failed else 0.0)
