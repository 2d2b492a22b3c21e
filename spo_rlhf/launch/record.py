"""The record of a run: events in, metrics.jsonl, summary.json and progress lines out."""

import json
import time
from pathlib import Path
from typing import Any

from spo_rlhf.host.console import Console, count, duration
from spo_rlhf.host.files import write_json

# Timings of a step -> phases of the summary.
PHASES = {
    "timing/generation": "generate",
    "timing/make_experience": "experience",
    "timing/ppo_train": "train",
    "timing/broadcast": "weight_sync",
}
# More Monte Carlo than this many times the responses' tokens is worth a note: what it buys is told in docs/when-spo-pays.md.
DEAR_MONTE_CARLO = 5.0


class RunRecord:
    """Takes the events of one run (trainer/events.py). `summary` is complete at any time."""

    def __init__(self, run_dir: Path, console: Console):
        self.run_dir, self.console = run_dir, console
        self.start = time.time()
        self.first_step, self.planned, self.training_start = 0, 0, None
        self.first_tokens, self.tokens, self.token_budget = 0, 0, None
        self.summary: dict[str, Any] = {
            "finished": False,
            "steps": 0,
            "generated_tokens": 0,
            "mc_tokens": 0,
            "accuracy_before": None,
            "accuracy_after": None,
            "accuracy": [],  # [step, accuracy] of every evaluation
            "seconds_total": 0.0,
            "seconds_by_phase": {"start": 0.0, **dict.fromkeys(PHASES.values(), 0.0), "evaluate": 0.0, "finish": 0.0},
        }

    def take(self, event: dict[str, Any]) -> None:
        """Record one event and show it."""
        with open(self.run_dir / "metrics.jsonl", "a", encoding="utf-8") as file:
            if event["event"] != "stage":
                file.write(json.dumps(event) + "\n")
        getattr(self, f"_on_{event['event']}")(event)
        self.last = time.time()

    def finish(self, finished: bool) -> dict[str, Any]:
        """Write summary.json and return the summary."""
        self.summary["finished"] = finished
        self.summary["seconds_total"] = round(time.time() - self.start, 3)
        phases = self.summary["seconds_by_phase"]
        phases["finish"] = max(0.0, self.summary["seconds_total"] - sum(phases.values()))
        self.summary["seconds_by_phase"] = {name: round(seconds, 3) for name, seconds in phases.items()}
        write_json(self.run_dir / "summary.json", self.summary)
        return self.summary

    def _on_plan(self, event: dict[str, Any]) -> None:
        self.first_step, self.planned = event["first_step"], event["steps"]
        self.first_tokens = self.tokens = event["first_tokens"]
        self.token_budget = event["token_budget"]
        self.summary["seconds_by_phase"]["start"] = event["time"] - self.start
        self.training_start = event["time"]
        budget = "" if self.token_budget is None else f", or until {count(self.token_budget)} tokens are generated"
        steps = self.planned - self.first_step
        self.console.line(f"started in {duration(event['time'] - self.start)}; {steps} steps to go{budget}")

    def _on_note(self, event: dict[str, Any]) -> None:
        self.console.line(f"note: {event['text']}")

    def _on_stage(self, event: dict[str, Any]) -> None:
        of = f" {event['done']}/{event['total']}" if event.get("total") else ""
        self.console.status(f"{self._at(self.summary['steps'] + 1)}  {event['stage']}{of}  {self._left()}")

    def _on_step(self, event: dict[str, Any]) -> None:
        metrics, step = event["metrics"], event["step"]
        self.summary["steps"], self.tokens = step, metrics["rollout/total_tokens"]
        self.summary["generated_tokens"] += int(metrics["rollout/response_tokens"] + metrics["rollout/mc_tokens"])
        self.summary["mc_tokens"] += int(metrics["rollout/mc_tokens"])
        for key, phase in PHASES.items():
            self.summary["seconds_by_phase"][phase] += metrics.get(key, 0.0)
        mc = f" + {count(metrics['rollout/mc_tokens'])} MC" if metrics["rollout/mc_tokens"] else ""
        text = (
            f"{self._at(step)}  reward {metrics['rollout/reward_mean']:.3f}"
            f"  tokens {count(metrics['rollout/response_tokens'])}{mc}"
            f"  mask {metrics.get('mask_density', float('nan')):.0%}  grad {metrics.get('actor_grad_norm', float('nan')):.3f}"
            f"  {metrics['timing/step_total']:.1f} s  {self._left()}"
        )
        self.console.line(text)
        times = metrics["rollout/mc_tokens"] / max(metrics["rollout/response_tokens"], 1)
        if step == self.first_step + 1 and times > DEAR_MONTE_CARLO:
            self.console.line(
                f"note: Monte Carlo takes {times:.0f} times the responses' tokens; fewer boundaries"
                " (--spo.cutpoint_interval) or continuations (--spo.mc_rollouts) take less"
            )

    def _on_eval(self, event: dict[str, Any]) -> None:
        accuracies = {name: value for name, value in event["metrics"].items() if name.endswith("_pass1")}
        if not accuracies:
            return
        accuracy = sum(accuracies.values()) / len(accuracies)
        self.summary["accuracy"].append([event["step"], accuracy])
        if self.summary["accuracy_before"] is None:
            self.summary["accuracy_before"] = accuracy
        self.summary["accuracy_after"] = accuracy
        self.summary["seconds_by_phase"]["evaluate"] += event["seconds"]
        self.console.line(f"{self._at(event['step'])}  held-out accuracy {accuracy:.1%}  {event['seconds']:.1f} s")

    def _done(self) -> float:
        """Share of this command's work: of its steps or of its token budget, whichever ends first."""
        done = (self.summary["steps"] - self.first_step) / max(self.planned - self.first_step, 1)
        if self.token_budget is not None:
            done = max(done, (self.tokens - self.first_tokens) / max(self.token_budget - self.first_tokens, 1))
        return min(done, 1.0)

    def _at(self, step: int) -> str:
        """Where the run is. The steps planned tell nothing where a token budget ends it."""
        return f"step {step}/{self.planned}" if self.token_budget is None else f"step {step} ({self._done():.0%} done)"

    def _left(self) -> str:
        if self.summary["steps"] <= self.first_step:
            return ""
        done = self._done()
        return f"{duration((time.time() - self.training_start) * (1 - done) / done)} left"
