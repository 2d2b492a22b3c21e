"""Health rules: what a run's own numbers say is wrong, in words, with what to try. docs/metrics.md describes each.

A rule is a pure function of a run. To add one, write it, register it, and give it a row on that page.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from spo_rlhf.core.registry import Registry
from spo_rlhf.insight.runs import Run, accuracy

# What is wrong and what to try, or None where it is not.
Rule = Callable[[Run], str | None]
RULES: Registry[Rule] = Registry("health rule")


@dataclass(frozen=True)
class Warning:
    """What a rule said of a run."""

    run: str
    rule: str
    text: str


def warnings(run: Run) -> list[Warning]:
    """Of all rules, in the order of their table."""
    return [Warning(run.name, name, text) for name, rule in RULES.items() if (text := rule(run))]


def _above(run: Run, metric: str, bound: float) -> float | None:
    """The late mean of a metric, where it is above the bound."""
    value = run.late(metric)
    return value if value is not None and value > bound else None


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


@RULES.register("unfinished")
def unfinished(run: Run) -> str | None:
    if run.summary.get("finished"):
        return None
    return f"not finished: {len(run.steps)} steps are recorded; it runs still, or --spo.resume auto goes on from its checkpoint"


@RULES.register("not_a_number")
def not_a_number(run: Run) -> str | None:
    bad = sorted({name for point in run.steps for name, value in point.metrics.items() if not math.isfinite(value)})
    if not bad:
        return None
    return f"{', '.join(bad[:4])} became infinite or not a number; lower --actor.adam.lr, or look at the rewards"


@RULES.register("groups_agree")
def groups_agree(run: Run) -> str | None:
    shares = run.credit.agreeing
    late = shares[-max(1, len(shares) // 4) :]
    share = sum(late) / len(late) if late else 0.0
    if share <= 0.8:
        return None
    return (
        f"{_share(share)} of the groups agree (all responses to a prompt have one reward): little to learn from; try more "
        "responses a prompt, problems of middling difficulty, or segments instead of groups"
    )


@RULES.register("no_advantage")
def no_advantage(run: Run) -> str | None:
    share = _above(run, "zero_advantage", 0.9)
    if share is None:
        return None
    return (
        f"{_share(share)} of the tokens under the loss have no advantage: most of what is sampled teaches nothing; try more "
        "Monte Carlo continuations, finer segments, or other problems"
    )


@RULES.register("reward_fell")
def reward_fell(run: Run) -> str | None:
    rewards = run.values("rollout/reward_mean")
    size = len(rewards) // 4
    if size < 2:
        return None
    means = [sum(rewards[at : at + size]) / size for at in range(len(rewards) - size + 1)]
    best, late = max(means), means[-1]
    if best - late <= max(0.05, 0.2 * abs(best)):
        return None
    return f"the reward fell from {best:.3f} to {late:.3f}: take the best checkpoint, and lower --actor.adam.lr or add a KL term"


@RULES.register("worse_than_before")
def worse_than_before(run: Run) -> str | None:
    known = [(point, value) for point in run.evals if (value := accuracy(point.metrics)) is not None]
    if len(known) < 2:
        return None
    (first, before), (_, after) = known[0], known[-1]
    samples = first.metrics.get("eval_num_samples", 0)
    error = math.sqrt(2 * max(before * (1 - before), 0.01) / samples) if samples else 0.0
    if before - after <= 2 * error:
        return None
    return f"held-out accuracy fell from {before:.1%} to {after:.1%}, more than two standard errors: the training harmed the model"


@RULES.register("truncated")
def truncated(run: Run) -> str | None:
    share = _above(run, "rollout/truncated_rate", 0.2)
    if share is None:
        return None
    return f"{_share(share)} of the responses are cut by the length limit and get reward 0: raise --rollout.max_new_tokens and --data.max_len"


@RULES.register("skipped_steps")
def skipped_steps(run: Run) -> str | None:
    skipped = run.total("skipped_steps") - run.total("nonfinite_steps")
    if skipped <= 0:
        return None
    return (
        f"{skipped:.0f} optimizer steps were skipped, as no token under the loss had an advantage: prompts of which some are solved, "
        "more responses to each, or a higher --spo.prob_threshold"
    )


@RULES.register("nonfinite_steps")
def nonfinite_steps(run: Run) -> str | None:
    bad = run.total("nonfinite_steps")
    if not bad:
        return None
    return f"{bad:.0f} optimizer steps were skipped, as a number was not finite: nonfinite/ in the run folder has the samples"


@RULES.register("mask_fell")
def mask_fell(run: Run) -> str | None:
    densities = run.values("mask_density")
    if len(densities) < 8 or not run.config.get("spo.prob_mask", True):
        return None
    size = len(densities) // 4
    early, late = (sum(part) / size for part in (densities[:size], densities[-size:]))
    if late >= 0.25 * early:
        return None
    return (
        f"the policy hesitates at {_share(late)} of its tokens, at first at {_share(early)}: its entropy goes; raise "
        "--rollout.temperature, add a KL term, or stop here"
    )


@RULES.register("gradient_spike")
def gradient_spike(run: Run) -> str | None:
    norms = [norm for norm in run.values("actor_grad_norm") if math.isfinite(norm)]
    if len(norms) < 5 or max(norms) <= 10 * median(norms):
        return None
    step = next(point.step for point in run.steps if point.metrics.get("actor_grad_norm") == max(norms))
    return f"the gradient was {max(norms):.3g} at step {step}, {max(norms) / max(median(norms), 1e-12):.0f} times its median: look at that step's rollouts"


@RULES.register("policy_jumps")
def policy_jumps(run: Run) -> str | None:
    values = run.values("ppo_kl")
    if not values or max(values) <= 0.05:
        return None
    return f"the policy moved by {max(values):.2g} nats from the one that sampled a batch (ppo_kl): fewer updates a batch, a smaller --actor.adam.lr, less replay"


@RULES.register("far_from_reference")
def far_from_reference(run: Run) -> str | None:
    kl = _above(run, "kl", 1.0)
    if kl is None:
        return None
    return f"the policy is {kl:.2g} nats from the reference: another model by now; raise --algo.kl.init_coef if that is not wanted"


@RULES.register("clipping")
def clipping(run: Run) -> str | None:
    share = _above(run, "ppo_clip_ratio", 0.2)
    if share is None:
        return None
    return f"{_share(share)} of the trained tokens are clipped: fewer updates a batch, a smaller --actor.adam.lr, or wider bounds (--spo.clip_high)"


@RULES.register("mismatch")
def mismatch(run: Run) -> str | None:
    # The largest gap of a batch is a matter of the rarest tokens in bfloat16; what a nucleus (top-p) explains is not in it.
    gaps = [gap for gap in run.values("rollout/logprob_gap_p99") if math.isfinite(gap)]
    if not gaps or median(gaps) <= 0.2:
        return None
    return (
        f"engine and actor differ by {median(gaps):.2g} nats or more at one token of 100: their weights or numerics differ; see "
        "--algo.advantage.is_correction_level in docs/ratio-levels.md"
    )


@RULES.register("stale_nodes")
def stale_nodes(run: Run) -> str | None:
    expired, trained = max(run.values("replay/expired"), default=0.0), run.total("replay/trained")
    if expired <= 0.2 * (expired + trained):
        return None
    return (
        f"{_share(expired / (expired + trained))} of the nodes with an advantage grew too old to be trained: raise "
        "--rollout.n_samples_per_prompt or --spo.replay_per_prompt"
    )


@RULES.register("duplicates")
def duplicates(run: Run) -> str | None:
    nodes, twice = run.total("rollout/nodes"), run.total("rollout/duplicate_siblings")
    if not nodes or twice <= 0.3 * nodes:
        return None
    return f"{_share(twice / nodes)} of the nodes repeat a sibling: sampled for nothing; raise --rollout.temperature or --spo.tree_segment_tokens"


@RULES.register("dear_monte_carlo")
def dear_monte_carlo(run: Run) -> str | None:
    responses, continuations = run.total("rollout/response_tokens"), run.total("rollout/mc_tokens")
    if continuations <= 5 * responses:
        return None
    return (
        f"Monte Carlo takes {continuations / max(responses, 1):.0f} times the responses' tokens: a coarser --spo.partition or fewer "
        "--spo.mc_rollouts take less (docs/when-spo-pays.md)"
    )


@RULES.register("one_segment")
def one_segment(run: Run) -> str | None:
    segments = run.late("segments")
    if segments is None or segments >= 1.5:
        return None
    return f"a response has {segments:.1f} segments: that is a group with one advantage each; lower --spo.cutpoint_interval or raise --spo.prob_threshold"


@RULES.register("cache_misses")
def cache_misses(run: Run) -> str | None:
    rate = run.late("rollout/cache_hit_rate")
    if rate is None or rate >= 0.3 or not run.total("rollout/mc_tokens"):
        return None
    return f"{_share(rate)} of the prefix tokens came from the cache: continuations pay for their prefixes; raise --vllm.gpu_memory_utilization"


@RULES.register("reward_timeouts")
def reward_timeouts(run: Run) -> str | None:
    late = max(run.values("rollout/reward_timeouts"), default=0.0)
    if not late:
        return None
    return f"{late:.0f} rewards ran past --spo.reward_timeout and count as 0: raise it, or look at what the reward function does there"


@RULES.register("engine_deaths")
def engine_deaths(run: Run) -> str | None:
    deaths = run.total("rollout/engine_restarts")
    if not deaths:
        return None
    return (
        f"{deaths:.0f} times an engine died and was started again: train.log says of what; memory is the usual reason"
    )


@RULES.register("values_off")
def values_off(run: Run) -> str | None:
    found = run.credit.calibration
    if found is None or abs(found.gap) <= max(3 * found.stderr, 0.02):
        return None
    side = "above" if found.gap > 0 else "below"
    return (
        f"values lie {abs(found.gap):.3f} {side} the rewards of their responses, over {abs(found.gap) / found.stderr:.0f} standard "
        "errors: the continuations are not sampled as the responses are, or the partition looks ahead"
    )
