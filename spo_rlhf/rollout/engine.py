"""The Ray actor around one vLLM engine: it samples whole prompts, Monte Carlo continuations and rewards included."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from spo_rlhf import cpu, upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.partition import TEXT_PARTITIONS
from spo_rlhf.rollout.chain import Continuation, PromptRollout, Sample
from spo_rlhf.rollout.prompt import RolloutCounts
from spo_rlhf.rollout.protocol import Completion, Grade
from spo_rlhf.rollout.reward import FileReward, PromptGrader
from spo_rlhf.rollout.reward_worker import only_number
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.rollout.tree import GrownTree, TreeRollout


@dataclass(frozen=True)
class RolloutRequest:
    """One prompt to sample."""

    prompt: str
    label: str
    slot: int  # position of the prompt in its batch
    seed: tuple  # what the seeds of its requests derive from: (run seed, "train" or "eval", iteration)
    num_samples: int
    max_length: int  # prompt and response together, in tokens
    max_new_tokens: int | None  # limit of the response alone
    temperature: float
    top_p: float
    top_k: int
    mode: str  # --spo.mode while training; "group", whole responses and rewards alone, in evaluation


class TokenSampler:
    """rollout.protocol.Engine over OpenRLHF's engine actor, with one prompt's sampling parameters."""

    def __init__(self, actor: "SegmentRolloutActor", request: RolloutRequest):
        self.actor = actor
        # No minimum length: forbidding an end of text at once would change the policy at every state that is continued.
        self.options = dict(temperature=request.temperature, top_p=request.top_p, top_k=request.top_k, min_tokens=0)

    async def sample(
        self, state: Sequence[int], *, n: int, max_tokens: int, seed: int, logprobs: bool
    ) -> list[Completion]:
        params = SamplingParams(
            **self.options,
            n=n,
            max_tokens=max_tokens,
            seed=seed,
            logprobs=0 if logprobs else None,  # 0: of the sampled token alone
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,  # without it, all but one of n continuations are lost
        )
        output = await self.actor.generate(list(state), params)
        return [
            Completion(
                token_ids=list(one.token_ids),
                logprobs=[at[token].logprob for token, at in zip(one.token_ids, one.logprobs)] if logprobs else None,
                truncated=one.finish_reason == "length",
                cached_tokens=output.num_cached_tokens or 0,
            )
            for one in output.outputs
        ]


class SegmentRolloutActor(upstream.RolloutRayActor):
    """OpenRLHF's engine actor, with `rollout` beside its `generate_responses`."""

    async def __init__(self, *args: Any, spo: SpoConfig, use_fast_tokenizer: bool, **kwargs: Any):
        reward_addresses = kwargs.get("remote_rm_url") or []
        await super().__init__(*args, **kwargs)
        self.spo = spo
        self.tokenizer = upstream.get_tokenizer(kwargs["model"], None, "left", use_fast=use_fast_tokenizer)
        self.weight_version = 0
        self._state_values: dict[tuple, dict] = {}  # (prompt, label) -> values asked for in this iteration
        self._state_seed: tuple | None = None
        if reward_addresses and reward_addresses[0].endswith(".py"):
            self._reward = FileReward(reward_addresses[0], spo.reward_workers, spo.reward_timeout)
        elif reward_addresses and reward_addresses != ["agent"]:
            self._reward = self._reward_over_http
        else:
            self._reward = None

    async def rollout(self, request: RolloutRequest) -> list[dict[str, Any]] | list[GrownTree]:
        """Sample one prompt: its tree, or response dicts as `generate_responses` returns them, with `segments` in chain mode."""
        prompt_ids = self.tokenizer(request.prompt, add_special_tokens=False)["input_ids"]
        room = request.max_length - len(prompt_ids)
        sampler = dict(
            engine=TokenSampler(self, request),
            grader=PromptGrader(self._reward, self._decode, request.prompt, request.label)
            if self._reward
            else Ungraded(),
            prompt_ids=prompt_ids,
            max_tokens=room if request.max_new_tokens is None else min(room, request.max_new_tokens),
            seed=request.seed,
            slot=request.slot,
        )
        version = self.weight_version
        if request.mode == "tree":
            rollout = TreeRollout(**sampler)
            tree = await rollout.grow(self.spo.tree)
            return [GrownTree(request.prompt, request.label, request.slot, version, tree, rollout.counts)]
        texts = self._token_texts if self.spo.partition.kind in TEXT_PARTITIONS else None
        keep = self.spo.train_continuations and request.mode == "chain"
        known = self._known_values(request)
        rollout = PromptRollout(**sampler, token_texts=texts, state_values=known, keep_continuations=keep)
        if request.mode == "chain":
            samples = await rollout.chain(request.num_samples, self.spo.partition, self.spo.mc_rollouts)
        else:
            samples = await rollout.group(request.num_samples)
        responses = [self._response(request, prompt_ids, sample, version) for sample in samples]
        responses[0]["counts"] = rollout.counts
        return responses + [self._continuation(request, prompt_ids, one, version) for one in rollout.continuations]

    async def load_weights(self, state: dict[str, Any]) -> None:
        """New weights on a machine without a GPU; with one, OpenRLHF broadcasts them itself."""
        await cpu.load_weights(self.llm, state)

    async def set_weight_version(self, version: int) -> None:
        """Number of policy updates behind the weights; every sample records it."""
        self.weight_version = version

    async def reward_timeouts(self) -> int:
        """Rewards that ran past their limit and counted as 0, since the start."""
        return getattr(self._reward, "timeouts", 0)

    def _known_values(self, request: RolloutRequest) -> dict:
        if request.seed != self._state_seed:
            self._state_values, self._state_seed = {}, request.seed
        return self._state_values.setdefault((request.prompt, request.label), {})

    def _response(self, request: RolloutRequest, prompt_ids: list[int], sample: Sample, version: int) -> dict[str, Any]:
        response = self._trajectory(request, prompt_ids, sample.completion, sample.grade, version)
        return {**response, "segments": sample if request.mode == "chain" else None, "counts": RolloutCounts()}

    def _continuation(
        self, request: RolloutRequest, prompt_ids: list[int], continuation: Continuation, version: int
    ) -> dict[str, Any]:
        context = [*prompt_ids, *continuation.prefix]
        response = self._trajectory(request, context, continuation.completion, continuation.grade, version)
        return {**response, "continuation": continuation}

    def _trajectory(
        self, request: RolloutRequest, context: list[int], completion: Completion, grade: Grade, version: int
    ) -> dict[str, Any]:
        """A response dict as OpenRLHF's: the tokens before the completion's own are context, no actions."""
        graded = self._reward is not None
        return {
            "prompt": request.prompt,
            "label": request.label,
            "images": None,
            "mm_train_inputs": None,
            "observation_tokens": context + completion.token_ids,
            "action_ranges": [(len(context), len(context) + len(completion.token_ids))],
            "rollout_log_probs": [0.0] * len(context) + completion.logprobs,
            "truncated": completion.truncated,
            "reward": grade.reward if graded else None,
            "scores": grade.score if graded else None,
            "extra_logs": {**grade.logs, "weight_version": float(version)},
            "slot": request.slot,
        }

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def _token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return token_texts(self.tokenizer, token_ids)

    async def _reward_over_http(self, query: str, prompt: str, label: str) -> Grade:
        [result] = (await self.executor._fetch_rewards_via_http([query], [prompt], [label]))[:1]
        reward = only_number(result["rewards"], "rewards")
        scores = result.get("scores")
        return Grade(reward, reward if scores is None else only_number(scores, "scores"))


class Ungraded:
    """Where a reward model grades the responses after sampling."""

    async def grade(self, response_ids: Sequence[int]) -> Grade:
        return Grade(reward=0.0, score=0.0)


RemoteSegmentRolloutActor = ray.remote(SegmentRolloutActor)


def engine_factory(spo: SpoConfig, use_fast_tokenizer: bool) -> upstream.EngineFactory:
    """What OpenRLHF's `create_vllm_engines` builds engines with."""

    def extra(kwargs: dict[str, Any]) -> dict[str, Any]:
        options = {
            "spo": spo,
            "use_fast_tokenizer": use_fast_tokenizer,
            "max_num_seqs": spo.max_num_seqs,
            # Probabilities of the behaviour policy: after temperature and top-p.
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": 1,
        }
        return {**options, **(cpu.engine_kwargs(kwargs["max_model_len"]) if cpu.is_cpu() else {})}

    return upstream.EngineFactory(RemoteSegmentRolloutActor, extra)
