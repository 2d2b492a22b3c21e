"""What credit assignment could win on the policy as it is, asked now and then while it trains: `--spo.diagnose_every`.

The same samples and the same formulas as in spo-diagnose, on the engines of the run. Nothing of it is trained, counted as
generated for training or drawn from the generators of the run: a run with diagnoses trains as one without.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from math import inf
from types import SimpleNamespace
from typing import Any

import numpy as np

from spo_rlhf.config import SpoConfig
from spo_rlhf.core.diagnosis import LIKELIEST, moments
from spo_rlhf.core.recommendation import diagnose
from spo_rlhf.core.seeds import derive_seed
from spo_rlhf.rollout.job import RolloutRequest
from spo_rlhf.rollout.prompts import PromptTokenizer
from spo_rlhf.rollout.protocol import Completion, Grade
from spo_rlhf.rollout.states import Graded, Named, StateSampler
from spo_rlhf.sampling.collect import Limits, TokenizedPrompt
from spo_rlhf.sampling.diagnosis import Answer, Diagnosing, Plan
from spo_rlhf.sampling.engine import Request
from spo_rlhf.trainer.samples import SegmentSamplesGenerator
from spo_rlhf.trainer.stopping import StopAsked

DRAWS = 500  # resamplings of the prompts for an interval
HISTORY = 8  # outcomes of a prompt that are taken as known, where the method knows any


class RunningDiagnosis:
    """Of the run's policy. `options`: how the engines sample, as `SegmentSamplesGenerator.generate` takes them.

    catch_up: sees to it that nothing else is in flight and that the engines have the policy's weights.
    """

    def __init__(
        self,
        args: SimpleNamespace,
        generator: SegmentSamplesGenerator,
        options: dict[str, Any],
        catch_up: Callable[[], object],
    ):
        self.args, self.generator, self.options, self.catch_up = args, generator, options, catch_up
        self.spo: SpoConfig = args.spo

    def after(self, step: int) -> dict[str, float]:
        """Metrics of the diagnosis that is due after this step; none where none is, or the run is asked to end."""
        if not self.spo.diagnose_every or step % self.spo.diagnose_every:
            return {}
        self.generator.reporter.stage("diagnose")
        start = time.monotonic()
        try:
            self.catch_up()
            made = self.diagnose(step)
        except StopAsked:
            return {}  # the step itself is whole; the loop sees to it that the run ends
        told = {f"diagnosis/{name}": value for name, value in made.items()}
        return told | {"timing/diagnosis": time.monotonic() - start}

    def diagnose(self, step: int) -> dict[str, float]:
        """Sample, and say what follows."""
        seed = derive_seed(self.args.train.seed, "diagnosis", step)
        prompts = self.prompts(seed)
        sampler = PoolSampler(prompts, self.generator, self.options, seed, self.spo.seeded)
        threshold = self.spo.mask_threshold
        plan = Plan(threshold=inf if threshold is None else threshold, seed=seed)
        limits = Limits(plan.responses, self.longest, self.args.data.max_len)
        made = Diagnosing(prompts, limits, plan, sampler).sample()
        cost = {"prompts": float(len(prompts)), "generated_tokens": float(made.tokens + made.continuation_tokens)}
        history = HISTORY if self.spo.method.memory() is not None else 0
        try:
            found = diagnose([moments(group, made.cut_C) for group in made.responses], made.cut_C, history, DRAWS, seed)
        except ValueError as error:
            self.generator.reporter.note(f"step {step}: nothing to diagnose: {error}")
            return cost
        self.generator.reporter.note(f"step {step}: {found.verdict}")
        return {**found.metrics(), **cost}

    @property
    def longest(self) -> int:
        """Tokens of a response."""
        limit = self.options.get("max_new_tokens")
        return self.args.data.max_len if limit is None else limit

    def prompts(self, seed: int) -> list[TokenizedPrompt]:
        """Some of the data's, whatever the run has come to by now."""
        data = self.generator.prompts_dataloader.dataset
        rng = np.random.default_rng(seed)
        drawn = rng.choice(len(data), min(self.spo.diagnose_prompts, len(data)), replace=False)
        rows = [data[int(number)] for number in drawn]  # source, prompt, label, images
        tokenize = PromptTokenizer(self.generator.tokenizer, chat=bool(self.args.data.apply_chat_template))
        token_ids = tokenize([row[1] for row in rows])
        return [
            TokenizedPrompt(int(number), row[1], row[2], ids)
            for number, row, ids in zip(drawn, rows, token_ids, strict=True)
        ]


class PoolSampler:
    """A `sampling.diagnosis.Sampler` on the engines of a run: a request for each prompt, its responses graded there."""

    def __init__(
        self,
        prompts: list[TokenizedPrompt],
        generator: SegmentSamplesGenerator,
        options: dict[str, Any],
        seed: int,
        seeded: bool,
    ):
        self.prompts, self.generator, self.options, self.seed, self.seeded = prompts, generator, options, seed, seeded

    def __call__(self, wanted: list[Request]) -> Iterator[Answer]:
        """Raises StopAsked."""
        of_prompt = defaultdict[int, list[Named]](list)
        for one in wanted:
            number = one.key[0]
            prefix = tuple(one.prompt_ids[len(self.prompts[number].token_ids) :])
            of_prompt[number].append((one.key, prefix, one.likeliest is not None))
        for rollout in self.generator.ask([self._request(number, names) for number, names in of_prompt.items()]):
            assert isinstance(rollout, Graded), "what was asked for were answers"
            yield from (answer(*one) for one in rollout.answers)

    def _request(self, number: int, names: list[Named]) -> RolloutRequest:
        prompt, options = self.prompts[number], self.options
        return RolloutRequest(
            prompt=prompt.text,
            label=prompt.label,
            slot=number,
            seed=(self.seed,),
            num_samples=len(names),
            max_length=self.generator.args.data.max_len,
            max_new_tokens=options.get("max_new_tokens"),
            temperature=options.get("temperature", 1.0),
            top_p=options.get("top_p", 1.0),
            top_k=options.get("top_k", -1),
            method=StateSampler(names),
            seeded=self.seeded,
            likeliest=LIKELIEST,
        )


def answer(key: tuple, completion: Completion, grade: Grade) -> Answer:
    """A continuation as a diagnosis takes it."""
    states = None
    if completion.squares is not None:
        assert completion.logprobs is not None and completion.top_logprobs is not None
        prob_T, top_T = np.exp(completion.logprobs), np.exp(completion.top_logprobs)
        states = prob_T, np.array(completion.squares), top_T
    return Answer(key, completion.token_ids, not completion.truncated, grade, states)
