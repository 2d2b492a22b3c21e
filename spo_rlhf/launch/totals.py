"""The totals of a run, folded from its events one after another: what summary.json holds."""

from collections.abc import Callable
from typing import Any

# Timings of a step -> phases of the summary.
PHASES = {
    "timing/generation": "generate",
    "timing/make_experience": "experience",
    "timing/ppo_train": "train",
    "timing/broadcast": "weight_sync",
}


# Counts of a step that are summed up under the same name, what stands before the slash left out.
COUNTS = (
    "optimizer_steps",
    "skipped_steps",
    "nonfinite_steps",
    "rollout/rewards",
    "rollout/reward_timeouts",
    "rollout/reward_crashes",
    "rollout/requests",
    "rollout/answers",
    "rollout/requests_resent",
    "rollout/engine_restarts",
)


class Totals:
    """Totals over all starts of a run: one that went on from a checkpoint has a "plan" event for each.

    steps: iterations, those that were skipped included. optimizer_steps, skipped_steps: made and left out, of all iterations;
    nonfinite_steps: of the latter those where a number was not finite. Rewards: asked for, evaluations included. Tokens: those sampled for training, also by
    iterations that left nothing to train. Seconds: of the time from the start of a command to its last event in the record, so
    work after the checkpoint that was gone on from does not count.
    """

    def __init__(self) -> None:
        self.steps = self.first_step = self.generated_tokens = self.mc_tokens = 0
        self.untrained = (
            0,
            0,
        )  # tokens since the last step, and those of Monte Carlo in them: a next step has them too
        self.counts = dict.fromkeys(COUNTS, 0)
        self.accuracy: list[list[float]] = []  # [step, accuracy] of every evaluation
        self.problems: int | None = None  # held out, of the latest evaluation
        self.phases = {"start": 0.0, **dict.fromkeys(PHASES.values(), 0.0), "evaluate": 0.0}
        self.seconds_of_earlier_starts = 0.0
        self._started = self._last = 0.0  # of the current start: when, and the time of its last event

    def add(self, event: dict[str, Any]) -> None:
        """One more event, in the order of time; those of other kinds change nothing."""
        if fold := FOLDS.get(event["event"]):
            fold(self, event)
            self._last = event["time"]

    def summary(self, *, finished: bool, seconds_of_this_start: float) -> dict[str, Any]:
        """The content of summary.json.

        The phase "finish" is what no other phase has taken; of a run that has not finished that is "unfinished", its last step
        above all.
        """
        total = self.seconds_of_earlier_starts + seconds_of_this_start
        rest = max(0.0, total - sum(self.phases.values()))
        phases = {**self.phases, "finish" if finished else "unfinished": rest}
        before, after = self._before_and_after()
        return {
            "finished": finished,
            "steps": self.steps,
            "generated_tokens": self.generated_tokens + self.untrained[0],
            "mc_tokens": self.mc_tokens + self.untrained[1],
            **{name.removeprefix("rollout/"): count for name, count in self.counts.items()},
            "accuracy_before": before,
            "accuracy_after": after,
            "accuracy_best": max((accuracy for _, accuracy in self.accuracy), default=None),
            "accuracy": self.accuracy,
            "held_out_problems": self.problems,
            "seconds_total": round(total, 3),
            "seconds_by_phase": {name: round(seconds, 3) for name, seconds in phases.items()},
        }

    def _before_and_after(self) -> tuple[float | None, float | None]:
        """Accuracy of the first and of the last evaluation; of a single one, before or after any training, the other is None."""
        if not self.accuracy:
            return None, None
        (first, before), (last, after) = self.accuracy[0], self.accuracy[-1]
        if first == last:
            return (None, after) if last > self.first_step else (before, None)
        return before, after

    @property
    def has_trained(self) -> bool:
        """An optimizer step was made, and not more were skipped over numbers that are not finite.

        Steps without anything to learn from are no fault as long as there are others. A start from a checkpoint whose steps
        are recorded elsewhere may have nothing left to do, but then it samples nothing either.
        """
        made, skipped = self.counts["optimizer_steps"], self.counts["skipped_steps"]
        nothing_left = self.first_step > 0 and not skipped and not self.untrained[0]
        return self.counts["nonfinite_steps"] <= made and (made > 0 or nothing_left)

    def _count(self, event: dict[str, Any]) -> None:
        for name in COUNTS:
            self.counts[name] += int(event["metrics"].get(name, 0))

    def _plan(self, event: dict[str, Any]) -> None:
        self.seconds_of_earlier_starts += self._last - self._started
        self._started, self.first_step, self.untrained = event["started"], event["first_step"], (0, 0)
        self.phases["start"] += event["time"] - event["started"]

    def _step(self, event: dict[str, Any]) -> None:
        metrics, self.steps = event["metrics"], event["step"]
        self._count(event)
        tokens, mc_tokens = sampled_tokens(metrics)
        self.generated_tokens, self.mc_tokens, self.untrained = (
            self.generated_tokens + tokens,
            self.mc_tokens + mc_tokens,
            (0, 0),
        )
        for key, phase in PHASES.items():
            self.phases[phase] += metrics.get(key, 0.0)

    def _untrained(self, event: dict[str, Any]) -> None:
        self.untrained = sampled_tokens(event["metrics"])

    def _eval(self, event: dict[str, Any]) -> None:
        accuracy = mean_accuracy(event)
        if accuracy is None:
            return
        self.phases["evaluate"] += event["seconds"]
        self.problems = event.get("problems")
        if self.accuracy and self.accuracy[-1][0] == event["step"]:
            self.accuracy.pop()  # a start with nothing left to train evaluates its checkpoint once more
        self.accuracy.append([event["step"], accuracy])


FOLDS: dict[str, Callable[[Totals, dict[str, Any]], None]] = {
    "plan": Totals._plan,
    "step": Totals._step,
    "eval": Totals._eval,
    "rewards": Totals._count,
    "engines": Totals._count,
    "untrained": Totals._untrained,
}


def sampled_tokens(metrics: dict[str, float]) -> tuple[int, int]:
    """Tokens that were sampled for training, and how many of them by Monte Carlo."""
    mc_tokens = int(metrics["rollout/mc_tokens"])
    return int(metrics["rollout/response_tokens"]) + mc_tokens, mc_tokens


def mean_accuracy(event: dict[str, Any]) -> float | None:
    """Mean over the datasets of an evaluation; None where it measured none."""
    accuracies = [value for name, value in event["metrics"].items() if name.endswith("_pass1")]
    return sum(accuracies) / len(accuracies) if accuracies else None
