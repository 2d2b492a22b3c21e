"""A run folder without a run: metrics, summary, configuration and rollouts of any number of steps."""

import json
from pathlib import Path

import kept_toy
import made_up

CONFIG = {"spo.mode": "chain", "spo.mc_rollouts": 4, "spo.prob_mask": True, "rollout.top_p": 1.0, "train.seed": 1}
HEALTHY = {
    "rollout/reward_mean": 0.5,
    "rollout/response_tokens": 1000.0,
    "rollout/mc_tokens": 2000.0,
    "rollout/truncated_rate": 0.02,
    "rollout/cache_hit_rate": 0.8,
    "rollout/logprob_gap_max": 1e-4,
    "rollout/reward_timeouts": 0.0,
    "rollout/nodes": 0.0,
    "rollout/duplicate_siblings": 0.0,
    "rollout/response_length_mean": 30.0,
    "segments": 5.0,
    "mask_density": 0.2,
    "zero_advantage": 0.5,
    "kl": 0.1,
    "ppo_kl": 0.001,
    "ppo_clip_ratio": 0.01,
    "actor_grad_norm": 1.0,
    "skipped_steps": 0.0,
    "timing/generation": 2.0,
    "timing/ppo_train": 1.0,
}


def write(folder: Path, *, steps: int = 8, seed: int = 1, gain: float = 0.0, finished: bool = True, **config) -> Path:
    """A healthy run; `gain` is what its reward wins a step."""
    folder.mkdir(parents=True)
    events: list[dict] = [
        {"event": "plan", "time": 110.0, "started": 100.0, "first_step": 0, "steps": steps, "first_tokens": 0}
    ]
    events[0]["versions"] = {"torch": "2.13.0"}
    for step in range(steps + 1):
        if step:
            metrics = {**HEALTHY, "rollout/reward_mean": 0.25 + gain * step, "rollout/total_tokens": 3000.0 * step}
            events.append({"event": "step", "time": 110.0 + 10 * step, "step": step, "metrics": metrics})
        if step % 4 == 0:
            metrics = {"eval_default_pass1": 0.25 + gain * step, "eval_num_samples": 64.0}
            events.append(
                {"event": "eval", "time": 111.0 + 10 * step, "step": step, "seconds": 1.0, "metrics": metrics}
            )
    events.append({"event": "note", "time": 999.0, "text": "a <note>"})
    folder.joinpath("metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    summary = {
        "finished": finished,
        "steps": steps,
        "seconds_by_phase": {"start": 10.0, "generate": 30.0, "train": 60.0},
    }
    folder.joinpath("summary.json").write_text(json.dumps(summary))
    named = {name.replace("__", "."): value for name, value in config.items()}
    folder.joinpath("config.json").write_text(
        json.dumps({**CONFIG, "train.seed": seed, "spo.run_dir": str(folder), **named})
    )
    return kept_toy.write_run(folder, made_up.rows(steps=steps))
