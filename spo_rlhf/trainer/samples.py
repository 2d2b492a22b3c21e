"""Sample generation on the controller: prompts out to the engines, responses back as OpenRLHF experiences.

This is the one place where positions in a response become columns of OpenRLHF's layout.
"""

from collections.abc import Sequence

import ray
import torch
from vllm import SamplingParams

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.units import needs_ids, unit_ids
from spo_rlhf.rollout.engine import RolloutRequest
from spo_rlhf.rollout.prompt import RolloutCounts
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.rollout.tree import GrownTree
from spo_rlhf.trainer import continuations
from spo_rlhf.trainer.events import Reporter
from spo_rlhf.trainer.trees import node_responses


def to_columns(value_T, prompt_length: int, total_length: int) -> torch.Tensor:
    """Per-token values (T,) of a response -> (1, total_length - 1), zero elsewhere.

    OpenRLHF's per-step tensors have a column per *predicted* token: column j is about token j + 1, so response token t, which
    stands at position prompt_length + t, goes to column prompt_length + t - 1.
    """
    columns = torch.zeros(1, total_length - 1, dtype=torch.float32)
    start = prompt_length - 1
    columns[0, start : start + len(value_T)] = torch.as_tensor(value_T, dtype=torch.float32)
    return columns


def unit_columns(level: str, response: dict, boundary_K: Sequence[int], tokenizer) -> torch.Tensor | None:
    """Ratio units (1, total_length - 1) of a sample, 0 outside its actions; None where the level needs none.

    `boundary_K`: those of its segments. Each turn of a conversation has units of its own.
    """
    if not needs_ids(level):
        return None
    tokens = response["observation_tokens"]
    columns, units = torch.zeros(1, len(tokens) - 1), 0
    for start, end in response["action_ranges"]:
        text_T = token_texts(tokenizer, tokens[start:end]) if level == "subsentence" else None
        unit_T = torch.tensor(unit_ids(level, boundary_K, text_T)) + units
        columns += to_columns(unit_T, start, len(tokens))
        units = int(unit_T[-1])
    return columns.long()


def segment_logs(segments: int, first_value: float) -> dict[str, torch.Tensor]:
    """What a sample in chain mode logs: its number of segments, and the value of the state it starts from."""
    return {"segments": torch.tensor([float(segments)]), "value_prompt": torch.tensor([float(first_value)])}


def with_equal_logs(samples: list[upstream.Experience]) -> list[upstream.Experience]:
    """In place: a log that only some samples have is 0 for the others (a truncated response was not graded)."""
    names = dict.fromkeys(name for sample in samples for name in sample.info)
    for sample in samples:
        sample.info = {name: sample.info.get(name, torch.tensor([0.0])) for name in names}
    return samples


class SegmentSamplesGenerator(upstream.SamplesGenerator):
    """Asks the engines for whole rollouts: responses with rewards and, while training, segment advantages.

    `iteration` is set by the training loop: it is a part of the seeds. Samples come in the order of the prompts, whatever the
    order in which they were finished, so that a run can be repeated.
    """

    def __init__(self, *args, reporter: Reporter, **kwargs):
        super().__init__(*args, **kwargs)
        self.spo: SpoConfig = self.args.spo
        self.iteration = 0
        self.counts = RolloutCounts()  # of the last batch
        self.reporter = reporter
        self._purpose = "train"
        self.metrics: dict[str, float] = {}  # of the last batch, where this class knows better than OpenRLHF
        self._continuations: list[upstream.Experience] = []

    def generate_samples(self, **generate_kwargs):
        samples, pass_rate, prompts_consumed, exhausted = super().generate_samples(**generate_kwargs)
        if self.spo.mode == "tree":
            return samples, pass_rate, prompts_consumed, exhausted
        # An optimizer step that its samples do not fill would leak its gradient into the next iteration.
        whole = len(samples) // self.args.train.batch_size * self.args.train.batch_size
        if whole < len(samples):
            self.reporter.note(
                f"{len(samples) - whole} of {len(samples)} samples do not fill a --train.batch_size of "
                f"{self.args.train.batch_size} and are not trained on"
            )
        samples = with_equal_logs(samples[:whole])
        if self.spo.train_continuations:
            samples, self.metrics = continuations.join(
                samples,
                self._continuations,
                batch_size=self.args.train.batch_size,
                seed=(self.args.train.seed, self.iteration),
                keep_responses=self.spo.advantage_norm == "batch",  # whitening gives all of them an advantage
            )
        return with_equal_logs(samples), pass_rate, prompts_consumed, exhausted

    def generate_eval_samples(self, **generate_kwargs):
        self._purpose = "eval"
        try:
            return super().generate_eval_samples(**generate_kwargs)
        finally:
            self._purpose = "train"

    def _generate_vllm(self, *args, **kwargs):
        self._next_slot, self.counts, self._continuations = 0, RolloutCounts(), []
        experiences, prompts_consumed, exhausted = super()._generate_vllm(*args, **kwargs)
        aside = {id(experience) for experience in self._continuations}
        experiences = [experience for experience in experiences if id(experience) not in aside]
        experiences.sort(key=lambda experience: experience.index[0])
        return experiences, prompts_consumed, exhausted

    def _dispatch_prompts_to_vllm(self, prompts, labels, *, images=None, **generate_kwargs):
        images = images or [None] * len(prompts)
        num_samples = generate_kwargs.get("n_samples_per_prompt", self.args.rollout.n_samples_per_prompt)
        pending = ray.get([engine.get_num_unfinished_requests.remote() for engine in self.vllm_engines])
        refs = []
        for prompt, label, image in zip(prompts, labels, images):
            index = min(range(len(pending)), key=pending.__getitem__)
            pending[index] += num_samples
            engine = self.vllm_engines[index]
            request = self._request(prompt, label, num_samples, generate_kwargs)
            if image or self.args.train.agent_func_path:
                refs.append(self._upstream_rollout(engine, request, image))
            else:
                refs.append(engine.rollout.remote(request))
        return refs

    def _request(self, prompt: str, label: str, num_samples: int, generate_kwargs: dict) -> RolloutRequest:
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        return RolloutRequest(
            prompt=prompt,
            label=label,
            slot=slot,
            seed=(self.args.train.seed, self._purpose, self.iteration),
            num_samples=num_samples,
            max_length=generate_kwargs.get("max_len", self.args.data.max_len),
            max_new_tokens=generate_kwargs.get("max_new_tokens"),
            temperature=generate_kwargs.get("temperature", 1.0),
            top_p=generate_kwargs.get("top_p", 1.0),
            top_k=generate_kwargs.get("top_k", -1),
            mode=self.spo.mode if self._purpose == "train" else "group",
        )

    def _upstream_rollout(self, engine, request: RolloutRequest, image):
        """OpenRLHF's own rollout, for agents and images (group mode only)."""
        params = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            max_tokens=request.max_new_tokens,
            min_tokens=1,
            skip_special_tokens=False,
            logprobs=0,
        )
        return engine.generate_responses.remote(
            prompt=request.prompt,
            label=request.label,
            sampling_params=params,
            max_length=request.max_length,
            hf_tokenizer=self.tokenizer,
            num_samples=request.num_samples,
            images=image,
        )

    def _process_response_into_experience(self, response, **generate_kwargs):
        if isinstance(response, GrownTree):
            self.counts.add(response.counts)
            self.reporter.progress("generate")
            return response  # whole; `nodes` makes samples of it
        experience = super()._process_response_into_experience(response, **generate_kwargs)
        experience.index = [response.get("slot", 0)]
        if "counts" in response:
            self.counts.add(response["counts"])
        if "continuation" in response:
            continuation = response["continuation"]
            self._as_one_segment(experience, response, continuation.advantage)
            experience.info |= segment_logs(1, continuation.state_value)
            self._continuations.append(experience)
            return experience
        self.reporter.progress("evaluate" if self._purpose == "eval" else "generate")
        sample = response.get("segments")
        if self._purpose == "train":
            boundary_K = [] if sample is None else sample.boundaries
            experience.unit_ids = unit_columns(self.spo.ratio_level, response, boundary_K, self.tokenizer)
        if sample is not None:
            [(prompt_length, _)] = response["action_ranges"]
            total_length = len(response["observation_tokens"])
            experience.advantages = to_columns(sample.adv_T, prompt_length, total_length)
            experience.info |= segment_logs(len(sample.boundaries) - 1, sample.value_K[0])
        return experience

    def nodes(self, grown: GrownTree) -> list[upstream.Experience]:
        """The trained nodes of a tree, a sample each."""
        experiences = []
        for response, advantage in node_responses(grown, self.spo.tree_advantage):
            experience = super()._process_response_into_experience(response, max_len=self.args.data.max_len)
            self._as_one_segment(experience, response, advantage)
            experiences.append(experience)
        return experiences

    def _as_one_segment(self, experience: upstream.Experience, response: dict, advantage: float) -> None:
        """Give all actions of a sample one advantage, in place."""
        experience.advantages = experience.action_mask.float() * advantage
        whole = [0, int(experience.action_mask.sum())]
        experience.unit_ids = unit_columns(self.spo.ratio_level, response, whole, self.tokenizer)
