"""Rollouts on the controller: prompts out to the engines, rollouts back, samples as OpenRLHF's experiences.

This is the one place where positions in a response become columns of OpenRLHF's layout.
"""

import contextlib
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.finite import Fault
from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.core.units import needs_ids, unit_ids
from spo_rlhf.core.values import Prior
from spo_rlhf.methods.base import Method
from spo_rlhf.methods.group import Group
from spo_rlhf.rollout.job import RolloutRequest
from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.trainer import random_state
from spo_rlhf.trainer.engine_pool import EnginePool
from spo_rlhf.trainer.events import Reporter

CHECK_REWARDS_S, WAIT_S = 10.0, 1.0
Judge = Callable[[str, Any, int], tuple[float, Prior | None]]  # as `Supply.judge`


def to_columns(value_T: Any, prompt_length: int, total_length: int) -> torch.Tensor:
    """Per-token values (T,) of a response -> (1, total_length - 1), zero elsewhere.

    OpenRLHF's per-step tensors have a column per *predicted* token: column j is about token j + 1, so response token t,
    which stands at position prompt_length + t, goes to column prompt_length + t - 1.
    """
    columns = torch.zeros(1, total_length - 1, dtype=torch.float32)
    start = prompt_length - 1
    columns[0, start : start + len(value_T)] = torch.as_tensor(value_T, dtype=torch.float32)
    return columns


def unit_columns(level: str, sample: Sample, tokenizer: Any) -> torch.Tensor | None:
    """Ratio units (1, total_length - 1) of a sample, 0 outside its actions; None where the level needs none.

    Each turn of a conversation has units of its own.
    """
    if not needs_ids(level):
        return None
    tokens = sample.token_ids
    columns, units = torch.zeros(1, len(tokens) - 1), 0
    for start, end in sample.action_ranges:
        text_T = token_texts(tokenizer, tokens[start:end]) if level == "subsentence" else None
        unit_T = torch.tensor(unit_ids(level, sample.boundaries, text_T)) + units
        columns += to_columns(unit_T, start, len(tokens))
        units = int(unit_T[-1])
    return columns.long()


def with_equal_logs(samples: Sequence[upstream.Experience]) -> list[upstream.Experience]:
    """In place: a log that only some samples have is 0 for the others (a truncated response was not graded), a weight 1."""
    names = dict.fromkeys(name for sample in samples for name in sample.info)
    for sample in samples:
        sample.info = {name: sample.info.get(name, torch.tensor([float(name == "loss_weight")])) for name in names}
    return list(samples)


def is_informative(rollout: Rollout, score_range: Sequence[float]) -> bool:
    """OpenRLHF's dynamic filtering: the mean score of the responses lies inside the range.

    Ungraded ones stay, and those with a number that is not finite, for somebody to see.
    """
    scores = [sample.score for sample in rollout.samples]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or not known or rollout.faults:
        return True
    low, high = score_range
    return low < sum(known) / len(known) < high


@dataclass
class RolloutBatch:
    """The rollouts of one iteration, in the order of their prompts, and how they came about."""

    rollouts: list[Rollout]
    counts: RolloutCounts = field(default_factory=RolloutCounts)  # of all that was sampled, what was filtered included
    prompts: int = 0  # taken from the data
    sent: int = 0  # of these, sampled
    pass_rate: float | None = None  # percent of them that dynamic filtering kept
    exhausted: bool = False  # the episode has no prompt left
    episode: int = 0  # whose data they are of

    @property
    def faults(self) -> list[Fault]:
        """Numbers of the rollouts that are not finite: the batch must not be trained."""
        return [fault for rollout in self.rollouts for fault in rollout.faults]


class _Numbered:
    """Iterator over data that counts what it gave, from 0, and passes over the numbers in `passed`."""

    def __init__(self, data: Iterator[Any], passed: Iterable[int] = ()):
        self.data, self.next, self.passed = data, 0, set(passed)

    def __next__(self) -> Any:
        while self.next in self.passed:
            self.next += 1
            next(self.data)
        given = next(self.data)
        self.next += 1
        return given

    def passed_from(self, number: int) -> list[int]:
        """Those in `passed` from a number on, counted from it."""
        return sorted(one - number for one in self.passed if one >= number)


@dataclass
class _Sent:
    """A batch of which requests are, or were, in flight."""

    batch: RolloutBatch
    data: _Numbered  # of which prompts that are filtered are replaced
    purpose: tuple  # ("train" or "eval", iteration or step)
    score_range: Sequence[float] | None
    options: dict[str, Any]
    before: dict[str, Any] = field(default_factory=dict)  # `SegmentSamplesGenerator.place`, before it was sent
    first: int = 0  # number in the data before which it was sent
    numbers: set[int] = field(default_factory=set)  # in the data, of its prompts
    unanswered: int = 0
    kept: int = 0


class SegmentSamplesGenerator(upstream.SamplesGenerator):
    """Asks the engines for whole rollouts.

    They come in the order of the prompts, whatever the order in which they were finished, so that a run can be repeated.
    `check_rewards` is called every few seconds, `check_stop` more often, and both may raise.
    """

    def __init__(
        self,
        *args: Any,
        engines: EnginePool,
        reporter: Reporter,
        check_rewards: Callable[[], None],
        check_stop: Callable[[], None],
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.engines = engines
        self.spo: SpoConfig = self.args.spo
        self.reporter, self.check_rewards, self.check_stop = reporter, check_rewards, check_stop
        self.eval_step = 0  # of the next evaluation, a part of its seeds; set by the training loop
        self.judge: Judge = lambda prompt, label, iteration: (1.0, None)  # what is known of a prompt; set by the loop
        self.method_of: Callable[[int, int], Method] = lambda slot, iteration: self.spo.method  # likewise
        self._prompts: _Numbered | None = None  # iterator over the data of the episode
        self.episode = 0  # that it is of, or that is the next to begin; set by the training loop where a run goes on
        self._sent: dict[tuple, _Sent] = {}  # by purpose; answers come to all of them
        self._ahead: deque[_Sent] = deque()  # of these, those that are to be trained, in their order
        self._spare: list[Rollout] = []  # sampled ahead, by --rollout.vllm_generate_batch_size

    def place(self) -> dict[str, Any]:
        """For a checkpoint: where in the data the next prompts to train stand (None: between two episodes), and the random state.

        What was sent ahead of training is sampled again by the run that goes on from there. `passed` are prompts behind the
        place that are trained already: they replaced filtered ones of a batch before, counted from the place. Rollouts that were sampled
        ahead by --rollout.vllm_generate_batch_size do not belong to it.
        """
        if self._ahead:
            sent = self._ahead[0]
            return {**sent.before, "passed": sent.data.passed_from(sent.first)}
        return self._now()

    def _now(self) -> dict[str, Any]:
        here = self._prompts
        position = None if here is None else self.prompts_dataloader.state_dict()
        return {
            "prompts": position,
            "random": random_state.take(),
            "passed": [] if here is None else here.passed_from(here.next),
        }

    @property
    def has_only_spare(self) -> bool:
        """The data of the episode have ended, and rollouts that were sampled ahead are left: a checkpoint does not hold them."""
        return self._prompts is None and bool(self._spare)

    def go_on_from(self, position: dict[str, Any] | None, passed: Sequence[int] = ()) -> None:
        """Take further prompts from where `position` was asked for, without those that `passed` counts from there. Draws random
        numbers, as beginning an episode does.
        """
        if position is not None:
            self.prompts_dataloader.load_state_dict(position)
            self._prompts = _Numbered(iter(self.prompts_dataloader), passed)

    def send(self, iteration: int, **options: Any) -> None:
        """Send --rollout.batch_size prompts, or what the episode has left of them, for `generate` to fetch."""
        args, before = self.args, self._now()
        if self._prompts is None:
            self._prompts = _Numbered(iter(self.prompts_dataloader))
        wanted = getattr(args.rollout, "vllm_generate_batch_size", None) or args.rollout.batch_size
        score_range = args.algo.dynamic_filtering_range if args.algo.dynamic_filtering_enable else None
        batch = RolloutBatch([], episode=self.episode)
        sent = _Sent(batch, self._prompts, ("train", iteration), score_range, options, before, self._prompts.next)
        self._ahead.append(sent)
        self._dispatch(sent, wanted)

    def send_ahead(self, iteration: int, may_send: Callable[[int], bool], episodes: int, **options: Any) -> None:
        """Send batches to train behind that of `iteration`, while the first `episodes` have data and `may_send` of how many
        were sent before, that one included.
        """
        while self.episode < episodes and may_send(1 + sum(one.batch.sent > 0 for one in self._ahead)):
            self.send(iteration + 1 + len(self._ahead), **options)

    @torch.no_grad()
    def generate(self, iteration: int, **options: Any) -> RolloutBatch:
        """--rollout.batch_size prompts, or what the episode has left of them; the next call then starts another."""
        batch_size = self.args.rollout.batch_size
        batch = RolloutBatch([], episode=self.episode)
        if self._ahead or (len(self._spare) < batch_size and (self._prompts is not None or not self._spare)):
            with self._awake():
                if not self._ahead:
                    self.send(iteration, **options)
                assert self._ahead[0].purpose == ("train", iteration), (
                    "batches are fetched in the order in which they were sent"
                )
                self._finish(self._ahead[0])
            sent = self._ahead.popleft()
            batch = sent.batch
            # A checkpoint stands where the next batch was sent, and replacements in this one may be of behind there.
            place = next((one.first for one in self._ahead if one.data is sent.data), sent.data.next)
            sent.data.passed = {number for number in sent.data.passed | sent.numbers if number >= place}
            self._spare += batch.rollouts
        batch.rollouts = self._spare[:batch_size]
        self._spare = self._spare[batch_size:]
        goes_on = self._prompts is not None and self.episode == batch.episode
        batch.exhausted = not (goes_on or self._spare or any(one.batch.episode == batch.episode for one in self._ahead))
        return batch

    def settle(self) -> None:
        """Wait for the answers to all that was sent."""
        for sent in self._ahead:
            self._finish(sent)

    def leave_out_rest(self) -> None:
        """What was sent ahead and is not to be trained any more: the engines end it, and it is told."""
        self.settle()
        if prompts := sum(one.batch.sent for one in self._ahead):
            self.reporter.note(
                f"{prompts} prompts that were sampled ahead are not trained on: --spo.token_budget is used up"
            )
        self._ahead.clear()

    @torch.no_grad()
    def generate_eval_samples(self, **options: Any) -> list[upstream.Experience]:
        """Responses to all held-out prompts, at once; OpenRLHF's `evaluate` asks for them.

        A prompt's place among them is a part of its seeds: parts of rollout.batch_size, each counted from 0, gave every part the
        random numbers of the first, so that an average over prompts was less certain than their number says.
        """
        prompts = _Numbered(iter(self.eval_dataloader))
        with self._awake():
            batch = self._collect(prompts, sys.maxsize, ("eval", self.eval_step), options)
        if batch.faults:
            self.reporter.note(f"{len(batch.faults)} numbers of the held-out responses are not finite and count as 0")
        return [self._in_layout(rollout, one) for rollout in batch.rollouts for one in rollout.samples]

    @contextlib.contextmanager
    def _awake(self) -> Iterator[None]:
        """Context in which the engines answer; with --vllm.enable_sleep they hold device memory only in it."""
        sleeps = self.args.vllm.enable_sleep
        if sleeps:
            self.engines.ask("wake_up")
        yield
        if sleeps:  # not after an error: the run ends, and an engine at work may never answer
            self.engines.settle(self.check_stop)
            self.engines.ask("sleep")

    def to_experience(self, rollout: Rollout, sample: Sample) -> upstream.Experience:
        """One sample in OpenRLHF's layout, a batch of one row, with its ratio units and its advantages."""
        experience = self._in_layout(rollout, sample)
        experience.info["weight_version"] = torch.tensor([float(rollout.weight_version)])
        experience.info["loss_weight"] = torch.tensor([sample.weight * rollout.weight])
        experience.unit_ids = unit_columns(self.spo.ratio_level, sample, self.tokenizer)
        if sample.top_logprobs is not None:
            experience.top_log_probs = torch.tensor([sample.top_logprobs[1:]], dtype=torch.float32)
        if sample.adv_T is not None:
            [(start, _)] = sample.action_ranges
            experience.advantages = to_columns(sample.adv_T, start, len(sample.token_ids))
        return experience

    def _in_layout(self, rollout: Rollout, sample: Sample) -> upstream.Experience:
        response = {
            "prompt": rollout.prompt,
            "label": rollout.label,
            "images": sample.images,
            "mm_train_inputs": sample.mm_train_inputs,
            "observation_tokens": sample.token_ids,
            "action_ranges": sample.action_ranges,
            "rollout_log_probs": sample.logprobs,
            "truncated": sample.truncated,
            "reward": sample.reward,
            "scores": sample.score,
            "extra_logs": sample.logs,
        }
        experience = self._process_response_into_experience(response, max_len=self.args.data.max_len)
        experience.index = [rollout.slot]
        return experience

    @torch.no_grad()
    def ask(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """Answers to requests that belong to no batch, in any order."""
        found: list[Rollout] = []
        with self._awake():
            for request in requests:
                self.engines.submit(request)
            while self.engines.pending:
                found += [rollout for _, rollout in self.engines.take(WAIT_S)]
                self.check_stop()
            self.check_rewards()
        return found

    def _collect(self, data: _Numbered, num_prompts: int, purpose: tuple, options: dict) -> RolloutBatch:
        """Rollouts of the next prompts of `data`."""
        sent = _Sent(RolloutBatch([]), data, purpose, None, options)
        self._dispatch(sent, num_prompts)
        self._finish(sent)
        return sent.batch

    def _finish(self, sent: _Sent) -> None:
        """Wait for all answers to a batch; those to others are taken too."""
        batch, checked = sent.batch, time.monotonic()
        while sent.unanswered:
            answers = self.engines.take(WAIT_S)
            self.check_stop()
            for request, rollout in answers:
                self._answered(self._sent[request.seed[1:]], rollout)
            if not sent.unanswered or time.monotonic() - checked > CHECK_REWARDS_S:
                self.check_rewards()
                checked = time.monotonic()
        self._sent.pop(sent.purpose, None)
        if sent.score_range is not None and batch.prompts:
            batch.pass_rate = 100 * sent.kept / batch.prompts
        batch.rollouts.sort(key=lambda rollout: rollout.slot)

    def _answered(self, sent: _Sent, rollout: Rollout) -> None:
        """Take an answer; one outside the range of dynamic filtering is replaced by a further prompt."""
        sent.unanswered -= 1
        sent.batch.counts.add(rollout.counts)
        if sent.score_range is not None and not is_informative(rollout, sent.score_range):
            self._dispatch(sent, 1)
            return
        sent.kept += 1
        sent.batch.rollouts.append(rollout)
        self.reporter.progress("evaluate" if sent.purpose[0] == "eval" else "generate")

    def _dispatch(self, sent: _Sent, count: int) -> None:
        """Send the next `count` prompts that are kept; count them in the batch."""
        batch, purpose, options, first = sent.batch, sent.purpose, sent.options, sent.data.next
        self._sent[purpose] = sent
        num_samples = options.get("n_samples_per_prompt", self.args.rollout.n_samples_per_prompt)
        training = purpose[0] == "train"
        for prompt, label, image, keep, prior in self._kept(sent.data, count, purpose, batch):
            request = RolloutRequest(
                prompt=prompt,
                label=label,
                slot=batch.sent,
                seed=(self.args.train.seed, *purpose),
                num_samples=num_samples,
                max_length=options.get("max_len", self.args.data.max_len),
                max_new_tokens=options.get("max_new_tokens"),
                temperature=options.get("temperature", 1.0),
                top_p=options.get("top_p", 1.0),
                top_k=options.get("top_k", -1),
                method=self.method_of(batch.sent, purpose[1]) if training else Group(),
                seeded=self.spo.seeded,
                images=image,
                by_state=training and self.spo.by_state,
                weight=1 / keep,
                prior=prior,
            )
            self.engines.submit(request)
            batch.sent, sent.unanswered = batch.sent + 1, sent.unanswered + 1
        sent.numbers.update(range(first, sent.data.next))
        if batch.exhausted and self._prompts is sent.data:
            self._prompts, self.episode = None, self.episode + 1

    def _kept(self, data: _Numbered, count: int, purpose: tuple, batch: RolloutBatch) -> Iterator[tuple]:
        """The next `count` prompts, or what is left: prompt, label, images, with which chance it was kept, what is known of it."""
        kept = 0
        while kept < count and not batch.exhausted:
            prompts, labels, images, batch.exhausted = upstream.collect_prompts(data, count - kept)
            for prompt, label, image in zip(prompts, labels, images, strict=True):
                keep, prior = self.judge(prompt, label, purpose[1]) if purpose[0] == "train" else (1.0, None)
                batch.prompts += 1
                if (
                    keep < 1
                    and random.Random(derive_seed(self.args.train.seed, *purpose, batch.prompts)).random() >= keep
                ):
                    continue
                kept += 1
                yield prompt, label, image, keep, prior
