"""An engine without Ray and vLLM, for measurements on one small model: requests that wait together are one batch."""

import asyncio
from collections.abc import Sequence

import torch

from spo_rlhf.rollout.protocol import Completion, Grade

BATCH = 512
WAIT_S = 0.001


class TorchEngine:
    """rollout.protocol.Engine over a Hugging Face model, at temperature 1. Seeds of requests are not looked at.

    by_state: with the log-probs of the most likely tokens.
    """

    def __init__(self, model, tokenizer, by_state: bool = False):
        self.model, self.tokenizer, self.by_state = model.eval(), tokenizer, by_state
        self.waiting: list[tuple[list[int], int, asyncio.Future]] = []

    async def sample(
        self, state: Sequence[int], *, n: int, max_tokens: int, seed: int, logprobs: bool
    ) -> list[Completion]:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(n)]
        if not self.waiting:
            loop.call_later(WAIT_S, self._answer)
        self.waiting += [(list(state), max_tokens, future) for future in futures]
        return [await future for future in futures]

    def _answer(self) -> None:
        requests, self.waiting = sorted(self.waiting, key=lambda request: (request[1], len(request[0]))), []
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            for (_, _, future), completion in zip(batch, self._generate(batch), strict=True):
                future.set_result(completion)

    @torch.inference_mode()
    def _generate(self, batch) -> list[Completion]:
        inputs = self.tokenizer.pad(
            {"input_ids": [state for state, *_ in batch]}, padding_side="left", return_tensors="pt"
        )
        out = self.model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=max(r[1] for r in batch),
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        tokens = out.sequences[:, inputs["input_ids"].shape[1] :]
        logp_BTV = torch.stack(out.logits, 1).log_softmax(-1)
        logps, tops = logp_BTV.gather(-1, tokens[..., None])[..., 0], logp_BTV.amax(-1)
        completions = []
        for (_, limit, _), token_T, logp_T, top_T in zip(batch, tokens.tolist(), logps.tolist(), tops.tolist()):
            ended = self.tokenizer.eos_token_id in token_T[:limit]
            length = token_T.index(self.tokenizer.eos_token_id) + 1 if ended else limit
            top_T = top_T[:length] if self.by_state else None
            completions.append(Completion(token_T[:length], logp_T[:length], not ended, top_T))
        return completions


class TextGrader:
    """rollout.protocol.ResponseGrader: `reward(text)` of the decoded response, remembered by its tokens."""

    def __init__(self, tokenizer, reward):
        self.tokenizer, self.reward, self.known = tokenizer, reward, {}

    async def grade(self, response_ids: Sequence[int]) -> Grade:
        key = tuple(response_ids)
        if key not in self.known:
            reward = float(self.reward(self.tokenizer.decode(response_ids, skip_special_tokens=True)))
            self.known[key] = Grade(reward=reward, score=reward)
        return self.known[key]
