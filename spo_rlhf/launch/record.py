"""The record of a run: events in, metrics.jsonl, summary.json and progress lines out."""

import os
import time
from pathlib import Path
from typing import Any

from spo_rlhf.core.finite import speakable
from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import named_errors, write_json
from spo_rlhf.host.versions import versions
from spo_rlhf.launch import history
from spo_rlhf.launch.totals import Totals, mean_accuracy
from spo_rlhf.rollouts.store import RolloutStore

# More Monte Carlo than this many times the responses' tokens is worth a note: what it buys is told in docs/when-spo-pays.md.
DEAR_MONTE_CARLO = 5.0
# Events that metrics.jsonl does not hold: those for the terminal alone, and rollouts, which have files of their own.
NOT_WRITTEN = {"stage", "rollouts"}


class RunRecord:
    """Takes the events of one start of a run (trainer/events.py). `totals` is complete at any time.

    With `resume` the record of the earlier starts goes on: where the plan says which checkpoint the run goes on from, events of
    later steps are moved to metrics.cut.jsonl. Until then nothing in the folder changes. Without it another run's record is
    removed at once.
    """

    def __init__(self, run_dir: Path, console: Console, *, resume: bool = False, rollouts: RolloutStore | None = None):
        self.run_dir, self.console, self.rollouts = run_dir, console, rollouts
        self.start = time.time()
        self.first_step, self.planned, self.training_start = 0, 0, self.start
        self.first_tokens, self.tokens, self.token_budget = 0, 0, None
        self.totals = Totals()
        self._idle_told = False
        # While a resumed run has no plan: the events of earlier starts, and those that came since.
        self._earlier: list[dict[str, Any]] | None = None
        if resume:
            self._earlier = history.read_events(run_dir, lambda told: console.line(f"note: {told}"))
        self._waiting: list[dict[str, Any]] = []
        self._shown_by = {
            "plan": self._show_plan,
            "note": self._show_note,
            "stage": self._show_stage,
            "step": self._show_step,
            "eval": self._show_eval,
            "nonfinite": self._show_nonfinite,
            "rewards": lambda event: None,
            "engines": lambda event: None,
            "untrained": self._count_untrained,
            "rollouts": self._keep_rollouts,
        }
        if not resume:
            history.clear(run_dir)
            if rollouts:
                rollouts.cut(0)

    def take(self, event: dict[str, Any]) -> None:
        """Record one event and show it. Raises ValueError for an event of an unknown kind."""
        kind = event["event"]
        if kind not in self._shown_by:
            raise ValueError(f"unknown event {kind!r}; a record takes {', '.join(self._shown_by)}")
        if kind == "plan":
            event = {**event, "started": self.start, "versions": versions()}
            self._go_on_from(event["first_step"])
        if kind == "nonfinite":
            event = self._keep_samples(event)
        if kind not in NOT_WRITTEN:
            self._write(event)
        self.totals.add(event)
        self._shown_by[kind](event)

    def finish(self, finished: bool) -> dict[str, Any]:
        """Write summary.json and return the summary. A resumed run that ended before its plan leaves the file as it was.

        A run that has not trained (`Totals.has_trained`) has not finished, whatever `finished` says.
        """
        finished = finished and self.totals.has_trained
        summary = self.totals.summary(finished=finished, seconds_of_this_start=time.time() - self.start)
        if self._earlier is None:
            write_json(self.run_dir / history.SUMMARY, summary)
        return summary

    def _go_on_from(self, step: int) -> None:
        """Keep the history up to the checkpoint of `step` and count it in."""
        if self._earlier is None:
            return
        if self.rollouts:
            self.rollouts.cut(step)
        kept, cut = history.split(self._earlier, step)
        for event in kept:
            self.totals.add(event)
        history.rewrite(self.run_dir, kept + self._waiting, cut)
        if cut:
            self.console.line(
                f"note: goes on from step {step}; what the record held beyond is in {self.run_dir / history.CUT}"
            )
        if self.totals.steps < step:
            self.console.line(
                f"note: goes on from step {step}; steps {self.totals.steps + 1} to {step} are not in this folder"
            )
        self._earlier, self._waiting = None, []

    def _write(self, event: dict[str, Any]) -> None:
        if self._earlier is not None:
            self._waiting.append(event)
            return
        path = self.run_dir / history.METRICS
        with named_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(history.line(event))
            file.flush()
            os.fsync(file.fileno())  # a checkpoint of the step is brought to the disk as well

    def _keep_samples(self, event: dict[str, Any]) -> dict[str, Any]:
        """Write what an event tells of samples to a file of its step; the event with the file's name in their place."""
        name = f"{history.NONFINITE}/step-{event['step']}.json"
        faults = event["faults"]
        write_json(self.run_dir / name, speakable({"step": event["step"], "faults": faults}))
        rest = {key: value for key, value in event.items() if key != "faults"}
        return {**rest, "numbers": list(dict.fromkeys(fault["number"] for fault in faults)), "file": name}

    def _show_nonfinite(self, event: dict[str, Any]) -> None:
        what = ", ".join(event["numbers"]) or "a number"
        self.console.line(f"note: step {event['step']}: {what} not finite, see {self.run_dir / event['file']}")

    def _show_plan(self, event: dict[str, Any]) -> None:
        self.first_step, self.planned = event["first_step"], event["steps"]
        self.first_tokens = self.tokens = event["first_tokens"]
        self.token_budget = event["token_budget"]
        self.training_start = event["time"]
        self.finish(False)  # a summary of an earlier start would say that the run has finished
        budget = "" if self.token_budget is None else f", or until {count(self.token_budget)} tokens are generated"
        steps = self.planned - self.first_step
        self.console.line(f"started in {duration(event['time'] - self.start)}; {steps} steps to go{budget}")

    def _show_note(self, event: dict[str, Any]) -> None:
        self.console.line(f"note: {event['text']}")

    def _count_untrained(self, event: dict[str, Any]) -> None:
        self.tokens = event["metrics"]["rollout/total_tokens"]

    def _keep_rollouts(self, event: dict[str, Any]) -> None:
        if self.rollouts:
            self.rollouts.keep(event["step"], event["content"])

    def _show_stage(self, event: dict[str, Any]) -> None:
        of = f" {event['done']}/{event['total']}" if event.get("total") else ""
        self.console.status(f"{self._at(self._steps_done() + 1)}  {event['stage']}{of}  {self._left()}")

    def _show_step(self, event: dict[str, Any]) -> None:
        metrics, step = event["metrics"], event["step"]
        self.tokens = metrics["rollout/total_tokens"]
        mc = f" + {count(metrics['rollout/mc_tokens'])} MC" if metrics["rollout/mc_tokens"] else ""
        idle = metrics.get("samples_without_gradient", 0)
        left_out = f"  {idle:.0f} of {metrics['rollout/num_samples']:.0f} samples without gradient" if idle else ""
        text = (
            f"{self._at(step)}  reward {metrics.get('rollout/reward_mean', float('nan')):.3f}"
            f"  tokens {count(metrics['rollout/response_tokens'])}{mc}"
            f"  mask {metrics.get('mask_density', float('nan')):.0%}  grad {metrics.get('actor_grad_norm', float('nan')):.3f}"
            f"{left_out}{self._skipped(metrics)}  {metrics['timing/step_total']:.1f} s  {self._left()}"
        )
        cells = {
            "step": self._at(step).removeprefix("step "),
            "reward": f"{metrics.get('rollout/reward_mean', float('nan')):.3f}",
            "held out": "",
            "tokens": count(metrics["rollout/response_tokens"]),
            "MC": count(metrics["rollout/mc_tokens"]),
            "mask": f"{metrics.get('mask_density', float('nan')):.0%}",
            "grad": f"{metrics.get('actor_grad_norm', float('nan')):.3f}",
            "idle": f"{idle:.0f}",
            "time": f"{metrics['timing/step_total']:.1f} s",
            "": self._skipped(metrics).strip(),
        }
        self.console.row(f"step {step}", cells, text)
        if idle and idle >= metrics["rollout/num_samples"]:
            self._tell_idle_step(step, metrics)
        times = metrics["rollout/mc_tokens"] / max(metrics["rollout/response_tokens"], 1)
        if step == self.first_step + 1 and times > DEAR_MONTE_CARLO:
            self.console.line(
                f"note: Monte Carlo takes {times:.0f} times the responses' tokens; fewer boundaries"
                " (a coarser --spo.partition) or continuations (--spo.mc_rollouts) take less"
            )

    def _tell_idle_step(self, step: int, metrics: dict[str, float]) -> None:
        """Once: later steps of this kind have "n of n samples without gradient" in their rows."""
        if not self._idle_told:
            self.console.line(
                f"note: step {step} had nothing to learn from: no advantage differs from 0, mean reward"
                f" {metrics.get('rollout/reward_mean', float('nan')):.3f}; problems of middling difficulty, a model that was warmed"
                " up or more responses a prompt give some"
            )
        self._idle_told = True

    @staticmethod
    def _skipped(metrics: dict[str, float]) -> str:
        skipped, made = int(metrics.get("nonfinite_steps", 0)), int(metrics.get("optimizer_steps", 0))
        if not skipped:
            return ""
        return f"  {skipped} of {skipped + made} updates skipped" if made else "  skipped"

    def _show_eval(self, event: dict[str, Any]) -> None:
        accuracy = mean_accuracy(event)
        if accuracy is not None:
            text = f"{self._at(event['step'])}  held-out accuracy {accuracy:.1%}  {event['seconds']:.1f} s"
            cells = {"step": self._at(event["step"]).removeprefix("step "), "reward": "", "held out": f"{accuracy:.1%}"}
            self.console.row(f"step {event['step']}", cells, text)

    def _steps_done(self) -> int:
        """Steps behind the run, also where those before its checkpoint are recorded elsewhere."""
        return max(self.totals.steps, self.first_step)

    def _done(self) -> float:
        """Share of this command's work: of its steps or of its token budget, whichever ends first."""
        done = (self._steps_done() - self.first_step) / max(self.planned - self.first_step, 1)
        if self.token_budget is not None:
            done = max(done, (self.tokens - self.first_tokens) / max(self.token_budget - self.first_tokens, 1))
        return min(done, 1.0)

    def _at(self, step: int) -> str:
        """Where the run is. The steps planned tell nothing where a token budget ends it."""
        return f"step {step}/{self.planned}" if self.token_budget is None else f"step {step} ({self._done():.0%} done)"

    def _left(self) -> str:
        if self._steps_done() <= self.first_step:
            return ""
        done = self._done()
        return f"{duration((time.time() - self.training_start) * (1 - done) / done)} left"
