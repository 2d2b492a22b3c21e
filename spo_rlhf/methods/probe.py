"""Groups of whole responses whose states get values from the policy itself: no critic, no continuation.

A forward pass of the policy is made of every response anyway, for the old log-probs. What its head read at the start of
each segment is kept of it, projected at random onto a few numbers, and a ridge regression on other prompts' outcomes makes
values of them (core/probe.py).

`--spo.probe_source gold` asks for something else of the states, or for more: how probable the policy finds the right answer
there. That is a pass of its own over every state, the answer put behind it (core/gold.py).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spo_rlhf.core import gold, probe
from spo_rlhf.core.advantages import to_tokens
from spo_rlhf.core.baselines import BASELINES, Baseline
from spo_rlhf.core.history import PromptHistory
from spo_rlhf.core.options import choice, name_of, option
from spo_rlhf.core.partition import PARTITIONS, Partition
from spo_rlhf.core.values import ValueEstimate, leave_one_out
from spo_rlhf.errors import UserError
from spo_rlhf.methods.base import (
    BASELINE_HELP,
    Experience,
    PromptJob,
    SegmentMethod,
    Supply,
    TrainerServices,
)
from spo_rlhf.methods.chain import segment_logs
from spo_rlhf.rollout.chain import PromptRollout
from spo_rlhf.rollout.records import Rollout, Sample

SOURCES = ("hidden", "gold", "both")
GOLD_TEMPLATE = "\nThe answer is {label}"


@dataclass(frozen=True, kw_only=True)
class Probe(SegmentMethod):
    """Groups whose segments have values from a regression on what the policy itself holds of their states."""

    partition: Partition = choice("partition", PARTITIONS, "cutpoint", help="how a response is cut into segments")
    baseline: Baseline = choice("baseline", BASELINES, "group", help=BASELINE_HELP)
    trace: float = option(
        1.0,
        flag="probe_trace",
        at_least=0,
        at_most=1,
        metavar="LAMBDA",
        help="1: the values are a baseline, which is unbiased; 0: a segment's advantage is what it changed of them, as biased as "
        "they are; between: a mean of both (generalized advantage estimation)",
    )
    features: int = option(
        64,
        flag="probe_features",
        at_least=1,
        at_most=4096,
        metavar="D",
        help="numbers onto which a hidden state is projected at random",
    )
    source: str = option(
        "hidden",
        flag="probe_source",
        choices=SOURCES,
        help="what the values come from: the hidden states of the pass for old log-probs, the probability of the right answer "
        "behind each state by a further pass (labels that are short texts), or both",
    )
    gold_template: str = option(
        GOLD_TEMPLATE,
        default_text=repr(GOLD_TEMPLATE).replace("'", '"'),
        metavar="TEXT",
        help="what is put behind a state, {label} for the right answer",
    )

    def refuse(self, options: Mapping[str, Any], explicit: set[str]) -> None:
        super().refuse(options, explicit)
        if "{label}" not in self.gold_template:
            raise UserError(f"--spo.gold_template {self.gold_template!r} has no {{label}}, where the right answer goes")
        if not self.asks_gold and "spo.gold_template" in explicit:
            raise UserError("--spo.gold_template has no meaning with --spo.probe_source hidden; leave it out")
        if not self.hidden_features and "spo.probe_features" in explicit:
            raise UserError("--spo.probe_features has no meaning with --spo.probe_source gold; leave it out")
        if self.asks_gold and not options["data.label_key"]:
            raise UserError(f"--spo.probe_source {self.source} needs the right answers: give --data.label_key")
        if self.hidden_features and options["spo.old_logprobs"] == "engine":
            raise UserError("--spo.old_logprobs engine leaves out the pass that --spo.mode probe reads; use actor")
        packed = {
            "spo.pack_trees": options["spo.pack_trees"] != "off",
            "ds.packing_samples": options["ds.packing_samples"],
            "train.dynamic_batch_enable": options["train.dynamic_batch_enable"],
            "ds.ring_attn_size": options["ds.ring_attn_size"] > 1,
        }
        for flag in (flag for flag, on in packed.items() if on):
            raise UserError(
                f"--{flag} does not go with --spo.mode probe, which reads the hidden states of single samples"
            )

    @property
    def hidden_features(self) -> int:
        return 0 if self.source == "gold" else self.features

    @property
    def asks_gold(self) -> bool:
        """The right answer's probability is a feature."""
        return self.source != "hidden"

    def text_flag(self) -> str | None:
        return f"--spo.partition {name_of(PARTITIONS, self.partition)}" if self.partition.needs_text else None

    def memory(self) -> PromptHistory | None:
        return self.baseline.memory()

    async def rollout(self, job: PromptJob) -> Rollout:
        sampler = PromptRollout(**job.sampler_options())
        samples = []
        for one in await sampler.group(job.request.num_samples):
            prob_T = np.exp(np.asarray(one.completion.deciding_logprobs, dtype=np.float64))
            text_T = job.token_texts(one.completion.token_ids) if self.partition.needs_text else None
            boundaries = self.partition.boundaries(prob_T, text_T)
            # Every response has its pass, whatever its advantage will be: 1 until there are values.
            adv_T = [1.0] * len(one.completion.token_ids)
            logs = segment_logs(len(boundaries) - 1, 0.0)
            samples.append(job.sample((), one.completion, one.grade, boundaries=boundaries, adv_T=adv_T, logs=logs))
        return job.rollout(sampler.counts, samples=samples)

    def supply(self, services: TrainerServices) -> Supply:
        return ProbeSupply(self, services)


class ProbeSupply(Supply):
    """Responses of an iteration in, their passes made, their advantages from values that other prompts' outcomes fit."""

    def exchange(self, rollouts: Sequence[Rollout], iteration: int) -> tuple[list[Experience], dict[str, float]]:
        start = time.monotonic()
        pairs = [(rollout, sample) for rollout in rollouts for sample in rollout.samples]
        experiences = [self.services.to_experience(rollout, sample) for rollout, sample in pairs]
        if self.method.hidden_features:
            self.services.add_log_probs(experiences)
        found, gold_metrics = self.gold(rollouts)
        traced = self.traced(rollouts, experiences, found)
        fit = probe.cross_fitted(traced)
        for (_, sample), experience, one, value_K in zip(pairs, experiences, traced, fit.value_K, strict=True):
            self.credit(sample, experience, one, value_K)
        metrics = {
            "probe/explained": fit.explained,
            "probe/learned": fit.learned,
            **gold_metrics,
            "timing/make_experience": time.monotonic() - start,
        }
        return self.whole_steps(experiences), metrics

    def gold(self, rollouts: Sequence[Rollout]) -> tuple[list[np.ndarray], dict[str, float]]:
        """Features (K, G) of the states of each response, (K, 0) where none are wanted, and metrics.

        A state that responses share is asked once.
        """
        if not self.method.asks_gold:
            return [np.zeros((len(one.boundaries) - 1, 0)) for rollout in rollouts for one in rollout.samples], {}
        start, asked = time.monotonic(), dict[tuple[tuple[int, ...], str], int]()
        rows: list[tuple[list[int], list[int]]] = []
        places: list[list[int]] = []  # of each response's states in `rows`
        for rollout in rollouts:
            head, answer = self.answer(rollout.label)
            for sample in rollout.samples:
                [(begin, _)] = sample.action_ranges
                places.append([])
                for boundary in sample.boundaries[:-1]:
                    state = tuple(sample.token_ids[: begin + boundary])
                    number = asked.setdefault((state, rollout.label), len(rows))
                    if number == len(rows):
                        rows.append(([*state, *head], answer))
                    places[-1].append(number)
        assert self.services.log_probs_of is not None
        logprobs = self.services.log_probs_of(rows)
        made = [gold.features([logprobs[number] for number in numbers]) for numbers in places]
        metrics = {
            "probe/gold_seconds": time.monotonic() - start,
            "probe/gold_tokens": float(sum(len(context) + len(tokens) for context, tokens in rows)),
            "probe/gold_first": float(np.mean([one[0, 0] for one in made])),
            "probe/gold_last": float(np.mean([one[-1, 0] for one in made])),
        }
        return made, metrics

    def answer(self, label: str) -> tuple[list[int], list[int]]:
        """Tokens between a state and the right answer, and of that. Raises UserError for an answer that is none."""
        encode, template = self.services.encode, self.method.gold_template
        assert encode is not None
        whole = encode(template.replace("{label}", label))
        start = gold.answer_start(whole, encode(template.partition("{label}")[0]))
        if not label.strip() or len(whole) - start > gold.LONGEST:
            raise UserError(
                f"--spo.probe_source {self.method.source}: the label {label[:40]!r} is no short text: {len(whole) - start} tokens, "
                f"at most {gold.LONGEST}"
            )
        return whole[:start], whole[start:]

    def traced(
        self, rollouts: Sequence[Rollout], experiences: Sequence[Experience], gold_N: Sequence[np.ndarray]
    ) -> list[probe.Traced]:
        """The responses by the states where their segments start, in the order of `experiences`."""
        made, rest, more = [], iter(experiences), iter(gold_N)
        for prompt, rollout in enumerate(rollouts):
            reward_B = [float(one.reward or 0.0) for one in rollout.samples]
            columns = (leave_one_out(reward_B, rollout.prior), probe.spreads(reward_B), reward_B)
            for sample, base, spread, reward in zip(rollout.samples, *columns, strict=True):
                state_KD = next(more)
                if self.method.hidden_features:
                    hidden_KD = states(next(rest), sample, self.method.features)
                    state_KD = np.concatenate([hidden_KD, state_KD[: len(hidden_KD)]], axis=1)
                made.append(probe.Traced(prompt, state_KD, float(base), float(spread), reward))
        return made

    def credit(self, sample: Sample, experience: Experience, one: probe.Traced, value_K: np.ndarray) -> None:
        """Advantages of a response's segments, in place, of the sample as it is kept too; without values, against the others."""
        if not len(value_K):
            value_K = np.full(len(sample.boundaries) - 1, one.base)
        adv_K = probe.advantages(value_K, one.reward, self.method.trace)
        adv_T = to_tokens(adv_K, sample.boundaries)
        sample.adv_T = adv_T.tolist()
        sample.estimates = [ValueEstimate(float(value), 0.0, 0) for value in value_K]
        sample.logs["value_prompt"] = float(value_K[0])
        experience.info["value_prompt"] = experience.advantages.new_tensor([sample.logs["value_prompt"]])
        [(start, end)] = sample.action_ranges
        row = experience.advantages
        row.zero_()
        # Column t - 1 is of token t.
        row[0, start - 1 : end - 1] = row.new_tensor(sample.adv_T)


def states(experience: Experience, sample: Sample, features: int) -> np.ndarray:
    """What the pass left of the states where the segments start, (K, D), and is not needed longer.

    None, (0, D), of a response without a token under the loss: it can have no gradient, so no pass is made of it.
    """
    if not hasattr(experience, "hidden"):
        return np.zeros((0, features))
    [(start, _)] = sample.action_ranges
    columns = [start - 1 + boundary for boundary in sample.boundaries[:-1]]
    state_KD = experience.hidden[0, columns].double().numpy()
    del experience.hidden
    return state_KD
