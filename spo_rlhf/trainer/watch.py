"""On the controller: what becomes of steps with a number that is not finite, and when that ends the run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from spo_rlhf.core.finite import IN_A_ROW, MOST, Fault, Streak
from spo_rlhf.errors import RunStopped
from spo_rlhf.trainer.events import Reporter

BATCH = "batch"  # the streak of steps that were skipped before any model saw them


class NonFinite(Exception):
    """A batch has numbers that are not finite, so it is not trained on."""

    def __init__(self, faults: Sequence[Fault]):
        super().__init__(faults[0].number)
        self.faults = list(faults)


class FaultWatch:
    """Counts the optimizer steps that are left out, in a row too, and sends the samples that were at fault to the record.

    Args:
        decode: token ids -> text.
        steps_of_batch: optimizer steps that a rollout batch is meant for; so many are skipped with a batch.
    """

    def __init__(self, reporter: Reporter, decode: Callable[[Sequence[int]], str], steps_of_batch: int):
        self.reporter, self.decode, self.steps_of_batch = reporter, decode, max(steps_of_batch, 1)
        self.streaks: dict[str, Streak] = {}
        self.last = ""

    def state(self) -> dict[str, list[Any]]:
        """The streaks, for a checkpoint."""
        return {model: [streak.length, streak.hopeless] for model, streak in self.streaks.items()}

    def restore(self, state: dict[str, list[Any]]) -> None:
        """Go on with the streaks of `state`."""
        self.streaks = {model: Streak(*values) for model, values in state.items()}

    def skip_batch(self, step: int, faults: Sequence[Fault]) -> dict[str, Any]:
        """Metrics of a step that no model took part in; a batch counts once in a row, for every model that has trained."""
        for model in self.streaks.keys() - {BATCH}:
            self.streaks[model].add([False])
        self._add(BATCH, step, [False], faults)
        return {
            "optimizer_steps": 0,
            "skipped_steps": self.steps_of_batch,
            "nonfinite_steps": self.steps_of_batch,
            "timing/make_experience": 0.0,
            "timing/ppo_train": 0.0,
            "timing/broadcast": 0.0,
        }

    def take(self, model: str, step: int, reports: Iterable[tuple[list[bool], list[Fault]]]) -> None:
        """What the guards of a model's ranks report of a step: the same decisions, each its own faults."""
        reports = list(reports)
        faults = [fault for _, faults in reports for fault in faults]
        self._add(model, step, reports[0][0], faults)
        if any(reports[0][0]) and BATCH in self.streaks:
            self.streaks[BATCH].add([True])

    def _add(self, model: str, step: int, made: Sequence[bool], faults: Sequence[Fault]) -> None:
        self.streaks.setdefault(model, Streak()).add(made)
        if all(made):
            return
        self.last = ", ".join(dict.fromkeys(fault.number for fault in faults)) or "a number"
        self.reporter.send("nonfinite", step=step, faults=[self._told(fault) for fault in faults[:MOST]])

    def _told(self, fault: Fault) -> dict[str, Any]:
        texts = {"context": self.decode(fault.context_ids), "response": self.decode(fault.token_ids)}
        return {**vars(fault), "context_ids": list(fault.context_ids), "token_ids": list(fault.token_ids), **texts}

    def stop_if_hopeless(self, step: int) -> None:
        """Raise RunStopped where optimizer steps were left out one after another."""
        if any(streak.hopeless for streak in self.streaks.values()):
            raise RunStopped(
                f"step {step}: {IN_A_ROW} steps in a row were skipped, since a number was not finite (last: {self.last}); "
                f"nonfinite/ in the run folder has the samples. The model was not saved"
            )
