"""The Ray actor around one vLLM engine: it samples whole prompts, Monte Carlo continuations and rewards included."""

import functools
import time
import uuid
from collections.abc import Sequence
from math import exp
from typing import Any

import ray
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from spo_rlhf import cpu, upstream
from spo_rlhf.core.diagnosis import LIKELIEST
from spo_rlhf.core.finite import Fault, first, with_zeros
from spo_rlhf.rollout import partial
from spo_rlhf.rollout.chain import StateValues
from spo_rlhf.rollout.job import PromptJob, RolloutRequest
from spo_rlhf.rollout.prompts import PromptTokenizer
from spo_rlhf.rollout.protocol import Completion, Grade
from spo_rlhf.rollout.records import Rollout, RolloutCounts, Sample
from spo_rlhf.rollout.reward import AddressReward, FileReward, PromptGrader, RewardCounts
from spo_rlhf.rollout.texts import token_texts


class TokenSampler:
    """rollout.protocol.Engine over OpenRLHF's engine actor, with one prompt's sampling parameters."""

    def __init__(self, actor: "SegmentRolloutActor", request: RolloutRequest):
        self.actor, self.seeded = actor, request.seeded
        self.known = max(
            int(request.by_state), request.likeliest
        )  # log-probs of likely tokens, beside the sampled one's
        self.squared = request.likeliest > 0
        # No minimum length: forbidding an end of text at once would change the policy at every state that is continued.
        self.options: dict[str, Any] = dict(
            temperature=request.temperature, top_p=request.top_p, top_k=request.top_k, min_tokens=0
        )

    async def sample(
        self, state: Sequence[int], *, n: int, max_tokens: int, seed: int, logprobs: bool
    ) -> list[Completion]:
        ask = functools.partial(self._ask, logprobs=logprobs)
        if self.actor.partial:
            return await partial.completions(ask, state, n=n, max_tokens=max_tokens, seed=seed)
        return [part.completion for part in await ask(state, n, max_tokens, seed)]

    async def _ask(
        self, state: Sequence[int], n: int, max_tokens: int, seed: int, *, logprobs: bool
    ) -> list[partial.Part]:
        params = SamplingParams(
            **self.options,
            n=n,
            max_tokens=max_tokens,
            seed=seed if self.seeded else None,
            logprobs=self.known if logprobs else None,  # 0: of the sampled token alone
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,  # without it, all but one of n continuations are lost
        )
        output = await self.actor.generate(list(state), params)
        return [
            partial.Part(
                Completion(
                    token_ids=list(one.token_ids),
                    logprobs=(
                        [at[token].logprob for token, at in zip(one.token_ids, one.logprobs or [])]
                        if logprobs
                        else None
                    ),
                    top_logprobs=(
                        [max(known.logprob for known in at.values()) for at in one.logprobs or []]
                        if logprobs and self.known
                        else None
                    ),
                    squares=(
                        [sum(exp(2 * known.logprob) for known in at.values()) for at in one.logprobs or []]
                        if logprobs and self.squared
                        else None
                    ),
                    truncated=one.finish_reason == "length",
                    cached_tokens=output.num_cached_tokens or 0,
                ),
                ended=one.finish_reason != "abort",
                version=self.actor.sampling_version,
            )
            for one in output.outputs
        ]


class OtherWeights(Exception):
    """The engine does not have, or does not have whole, the weights that were meant."""


class SegmentRolloutActor(upstream.RolloutRayActor):
    """OpenRLHF's engine actor, with `rollout` beside its `generate_responses`.

    Ray starts it again where its process ends: then `identity` is another, and the weights are those of the model's folder.
    """

    async def __init__(
        self,
        *args: Any,
        reward_workers: int,
        reward_timeout: float,
        use_fast_tokenizer: bool,
        chat_template: bool,
        partial_rollouts: bool,
        **kwargs: Any,
    ):
        reward_addresses = kwargs.get("remote_rm_url") or []
        self.by_agent = bool(kwargs.get("agent_func_path"))
        began = time.monotonic()
        await super().__init__(*args, **kwargs)
        self.start_seconds = time.monotonic() - began
        self.tokenizer = upstream.get_tokenizer(kwargs["model"], None, "left", use_fast=use_fast_tokenizer)
        self._prompt_ids = PromptTokenizer(self.tokenizer, chat=chat_template)
        self.identity = uuid.uuid4().hex
        self.weight_version: int | None = 0  # None while weights are on their way
        self.sampling_version = 0  # of the weights behind what comes out of the engine now
        self.partial = partial_rollouts  # weights may come while requests are in flight
        self.sync_group: upstream.SyncGroup | None = None  # which it has joined, where weights come by NCCL
        self._state_values: dict[
            tuple[str, str], StateValues
        ] = {}  # (prompt, label) -> values asked for in this iteration
        self._state_seed: tuple[object, ...] | None = None
        if reward_addresses and reward_addresses[0].endswith(".py"):
            self._reward = FileReward(reward_addresses[0], reward_workers, reward_timeout, supervised=True)
        elif reward_addresses and reward_addresses != ["agent"]:
            self._reward = AddressReward(self._reward_over_http, " ".join(reward_addresses), reward_timeout)
        else:
            self._reward = None

    async def rollout(self, request: RolloutRequest, version: int | None = None) -> Rollout:
        """Sample one prompt, as the method of the request does.

        Raises OtherWeights unless the weights have this version, where one is given.
        """
        if self.weight_version is None or version not in (None, self.weight_version):
            raise OtherWeights(f"it has weights {self.weight_version}, {version} were meant")
        if request.images or self.by_agent:
            return await self._upstream_rollout(request)
        [prompt_ids] = self._prompt_ids([request.prompt])
        room = request.max_length - len(prompt_ids)
        job = PromptJob(
            request=request,
            engine=TokenSampler(self, request),
            grader=PromptGrader(self._reward, self._decode, request.prompt, request.label)
            if self._reward
            else Ungraded(),
            prompt_ids=prompt_ids,
            max_tokens=room if request.max_new_tokens is None else min(room, request.max_new_tokens),
            weight_version=self._whole_weights(),
            graded=self._reward is not None,
            token_texts=self._token_texts,
            state_values=self._known_values(request),
        )
        return await request.method.rollout(job)

    async def _upstream_rollout(self, request: RolloutRequest) -> Rollout:
        """OpenRLHF's own rollout, for agents and images: whole responses, of several turns perhaps."""
        params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=request.max_new_tokens,
            min_tokens=1,
            skip_special_tokens=False,
            logprobs=0,
        )
        weight_version = self._whole_weights()
        responses = await self.generate_responses(
            prompt=request.prompt,
            label=request.label,
            sampling_params=params,
            max_length=request.max_length,
            hf_tokenizer=self.tokenizer,
            num_samples=request.num_samples,
            images=request.images,
        )
        samples = [conversation_sample(response) for response in responses]
        tokens = sum(end - start for sample in samples for start, end in sample.action_ranges)
        counts = RolloutCounts(responses=len(samples), response_tokens=tokens)
        faults = [fault for sample in samples for fault in taken_faults(sample)]
        identity = (request.prompt, request.label, request.slot, weight_version)
        return Rollout(*identity, counts, samples, faults=faults, weight=request.weight, prior=request.prior)

    async def load_weights(self, state: dict[str, Any]) -> None:
        """New weights on a machine without a GPU; with one, OpenRLHF broadcasts them itself."""
        await cpu.load_weights(self.llm, state)

    async def load_bucket(self, tensors: list[Any], handles: dict[str, Any] | None = None) -> None:
        """New weights in buckets, with a GPU: one of them (upstream_worker.py)."""
        await self.llm.collective_rpc("load_bucket", args=(tensors, handles))

    async def about(self) -> tuple[str, int | None, float]:
        """Which process this is, the version of its weights, and the seconds that its start took."""
        return self.identity, self.weight_version, self.start_seconds

    async def heartbeat(self) -> None:
        """Answers when the engine's core does, between two steps of it."""
        await self.llm.is_sleeping()

    async def init_process_group(
        self, master_address: str, master_port: int, rank_offset: int, world_size: int, *args: Any, **kwargs: Any
    ) -> Any:
        """OpenRLHF's: join the group by which weights come."""
        joined = await super().init_process_group(master_address, master_port, rank_offset, world_size, *args, **kwargs)
        self.sync_group = upstream.SyncGroup(master_address, master_port, world_size)
        return joined

    async def prepare_weights(self) -> tuple[str, upstream.SyncGroup | None]:
        """Weights come now: no request is taken until all of them are there. Returns which process this is, and its group.

        With partial rollouts those in flight end where they are; what they are asked for next waits for the weights.
        """
        if self.partial:
            await self.llm.pause_generation(mode="abort")
        self.weight_version = None
        return self.identity, self.sync_group

    async def finish_weights(self, identity: str, version: int) -> None:
        """All weights have come; `version`: number of policy updates behind them, every sample records it.

        Raises OtherWeights where they came to a process that has died.
        """
        if identity != self.identity:
            raise OtherWeights("it was started again while weights were sent")
        self.weight_version = self.sampling_version = version
        if self.partial:
            await self.llm.resume_generation()

    async def reward_counts(self) -> tuple[str, RewardCounts]:
        """Which process this is; rewards that it was asked for, and those without an answer."""
        return self.identity, self._reward.counts if self._reward else RewardCounts()

    def _whole_weights(self) -> int:
        assert self.weight_version is not None, "`rollout` takes no request before that"
        return self.weight_version

    def _known_values(self, request: RolloutRequest) -> StateValues:
        if request.seed != self._state_seed:
            self._state_values, self._state_seed = {}, request.seed
        return self._state_values.setdefault((request.prompt, request.label), {})

    def _decode(self, token_ids: Sequence[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=False)

    def _token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return token_texts(self.tokenizer, token_ids)

    async def _reward_over_http(self, query: str, prompt: str, label: str) -> Any:
        return (await self.executor._fetch_rewards_via_http([query], [prompt], [label]))[0]


class Ungraded:
    """Where a reward model grades the responses after sampling."""

    async def grade(self, response_ids: Sequence[int]) -> Grade:
        return Grade(reward=0.0, score=0.0)


RemoteSegmentRolloutActor = ray.remote(SegmentRolloutActor)


def conversation_sample(response: dict[str, Any]) -> Sample:
    """A response of OpenRLHF's `generate_responses` as a sample; its actions may be the turns of a conversation."""
    return Sample(
        token_ids=response["observation_tokens"],
        action_ranges=[tuple(turn) for turn in response["action_ranges"]],
        logprobs=response["rollout_log_probs"],
        truncated=bool(response.get("truncated", False)),
        reward=response.get("reward"),
        score=response.get("scores"),
        logs=dict(response.get("extra_logs") or {}),
        images=response.get("images"),
        mm_train_inputs=response.get("mm_train_inputs"),
    )


def taken_faults(sample: Sample) -> list[Fault]:
    """Reward and log-probs of a conversation that are not finite; a 0 takes their place, in place."""
    begin = sample.action_ranges[0][0] if sample.action_ranges else 0
    context, response, logprob_T = sample.token_ids[:begin], sample.token_ids[begin:], (sample.logprobs or [])[begin:]
    faults = []
    if sample.reward is not None and first([float(sample.reward)]) == 0:
        faults.append(Fault("reward", float(sample.reward), context, response))
        sample.reward = sample.score = 0.0
    if (position := first(logprob_T)) is not None:
        values = {"engine log-prob": logprob_T}
        faults.append(Fault.at_token("engine log-prob", position, values, context_ids=context, token_ids=response))
        sample.logprobs = with_zeros(sample.logprobs or ())
    return faults


def engine_factory(
    *,
    reward_workers: int,
    reward_timeout: float,
    max_num_seqs: int,
    use_fast_tokenizer: bool,
    chat_template: bool,
    partial_rollouts: bool,
    weight_buckets: bool = False,
) -> upstream.EngineFactory:
    """What OpenRLHF's `create_vllm_engines` builds engines with; `chat_template` says that one has made the prompts.

    `weight_buckets`: they get their weights in buckets, which none does without a GPU.
    """
    worker = {"worker_extension_cls": "spo_rlhf.upstream_worker.BucketWorker"} if weight_buckets else {}

    def extra(kwargs: dict[str, Any]) -> dict[str, Any]:
        options = {
            "reward_workers": reward_workers,
            "reward_timeout": reward_timeout,
            "use_fast_tokenizer": use_fast_tokenizer,
            "chat_template": chat_template,
            "partial_rollouts": partial_rollouts,
            "max_num_seqs": max_num_seqs,
            # Probabilities of the behaviour policy: after temperature and top-p.
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": LIKELIEST,
        }
        return {**options, **worker, **(cpu.engine_kwargs(kwargs["max_model_len"]) if cpu.is_cpu() else {})}

    return upstream.EngineFactory(RemoteSegmentRolloutActor, extra)
