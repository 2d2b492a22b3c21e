"""Supervised training of the small model, up to a chosen accuracy, so that reinforcement learning has room."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.verdict import Question

Example = tuple[str, str]  # prompt and response, or prompt and answer
Optimizer = Literal["adamw", "muon"]


@dataclass(frozen=True)
class WarmUpSettings:
    """Training stops at `target_accuracy` of the held-out problems, after `max_steps` or after `max_seconds`.

    optimizer: "adamw", or "muon" for the layers' matrices and AdamW for the rest, which needs about half the steps
        where responses are long.
    averaged_steps: about how many of the last steps' weights are averaged (exponentially, arXiv 1803.05407 and later);
        the average is what is measured and kept. 0: the last weights. It takes the place of a falling learning rate,
        which needs to know where the training ends.
    Accuracy is measured every `evaluate_every` steps, and twice as often from half the target on, where it rises by a
    point every ten steps or so.
    """

    target_accuracy: float = 0.42
    max_seconds: float = 360.0
    max_steps: int | None = None
    batch_size: int = 32
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2e-3
    averaged_steps: int = 0
    ramp_steps: int = 30
    evaluate_every: int = 40
    max_new_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class WarmUpProgress:
    """Where the training stands. `accuracy` is the latest measured, None before the first time."""

    stage: str
    step: int
    loss: float
    accuracy: float | None
    seconds: float
    seconds_left: float


def warm_up(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    examples: list[Example],
    held_out: list[Example],
    settings: WarmUpSettings,
    report: Callable[[WarmUpProgress], None] = lambda progress: None,
    kind: str = "math",
) -> WarmUpProgress:
    """Train the model in place on (prompt, response) pairs; return where it ended.

    The loss is the mean cross-entropy of the responses' tokens and their end of text. Accuracy is that of greedy
    responses to the held-out (prompt, answer) pairs, graded as answers of `kind`. A run repeats exactly on CPU with
    the same number of threads, unless the clock ends it.
    """
    start = time.monotonic()
    optimizers = _optimizers(model, settings)
    schedules = [LambdaLR(each, lambda step: min(1.0, (step + 1) / settings.ramp_steps)) for each in optimizers]
    average = _average(model, settings)
    measured: Any = model if average is None else average.module
    step, loss, accuracy = 0, math.nan, None
    next_evaluation = settings.evaluate_every

    def progress(stage: str) -> WarmUpProgress:
        seconds = time.monotonic() - start
        return WarmUpProgress(stage, step, loss, accuracy, seconds, settings.max_seconds - seconds)

    batches = _batches(tokenizer, examples, settings)
    while step != settings.max_steps and progress("training").seconds_left > 0:
        loss = _train_step(model, optimizers, next(batches))
        for schedule in schedules:
            schedule.step()
        if average is not None:
            average.update_parameters(model)
        step += 1
        report(progress("training"))
        if step == next_evaluation:
            accuracy = greedy_accuracy(measured, tokenizer, held_out, settings.max_new_tokens, kind)
            report(progress("evaluating"))
            if accuracy >= settings.target_accuracy:
                break
            is_near = accuracy >= settings.target_accuracy / 2
            next_evaluation += max(1, settings.evaluate_every // 2) if is_near else settings.evaluate_every
    else:
        accuracy = greedy_accuracy(measured, tokenizer, held_out, settings.max_new_tokens, kind)
    model.load_state_dict(measured.state_dict())
    return progress("finished")


@torch.no_grad()
def greedy_accuracy(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    held_out: list[Example],
    max_new_tokens: int,
    kind: str = "math",
) -> float:
    """Return the share of (prompt, answer) pairs that greedy decoding, all in one batch, solves."""
    generator: Any = model  # its `generate` asks for a protocol that the class does not declare
    inputs = tokenizer([prompt for prompt, _ in held_out], padding=True, padding_side="left", return_tensors="pt")
    tokens = generator.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    responses = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    correct = [
        grade_here(Question(answer, kind=kind), response).correct
        for response, (_, answer) in zip(responses, held_out, strict=True)
    ]
    return sum(correct) / len(correct)


def _optimizers(model: Qwen2ForCausalLM, settings: WarmUpSettings) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices within the layers and AdamW for embeddings, biases and norms."""
    matrices = (
        [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
        if settings.optimizer == "muon"
        else []
    )
    taken = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in taken]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.98))]
    if matrices:
        # Updates as large as AdamW's, so that one learning rate suits both.
        optimizers.append(
            torch.optim.Muon(matrices, lr=settings.learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def _average(model: Qwen2ForCausalLM, settings: WarmUpSettings) -> AveragedModel | None:
    """The running average of the weights from its first update on, a copy, so that random ones are forgotten."""
    if not settings.averaged_steps:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / settings.averaged_steps))


def _batches(
    tokenizer: Qwen2Tokenizer, examples: list[Example], settings: WarmUpSettings
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield right-padded token ids (B, L) and the mask (B, L) of the response tokens, shuffled anew every epoch.

    Examples of similar length go together, which saves a third of the time; the batches come in random order.
    """
    prompts = tokenizer([prompt for prompt, _ in examples])["input_ids"]
    responses = tokenizer([f"{response}{tokenizer.eos_token}" for _, response in examples])["input_ids"]
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        order = sorted(
            torch.randperm(len(examples), generator=generator).tolist(),
            key=lambda row: len(prompts[row]) + len(responses[row]),
        )
        starts = torch.arange(0, len(order), settings.batch_size)
        for start in starts[torch.randperm(len(starts), generator=generator)].tolist():
            pairs = [(prompts[row], responses[row]) for row in order[start : start + settings.batch_size]]
            length = max(len(prompt) + len(response) for prompt, response in pairs)
            ids = torch.full((len(pairs), length), cast(int, tokenizer.pad_token_id))
            mask = torch.zeros((len(pairs), length), dtype=torch.bool)
            for row, (prompt, response) in enumerate(pairs):
                end = len(prompt) + len(response)
                ids[row, :end] = torch.tensor(prompt + response)
                mask[row, len(prompt) : end] = True
            yield ids, mask


def _train_step(
    model: Qwen2ForCausalLM, optimizers: list[torch.optim.Optimizer], batch: tuple[torch.Tensor, torch.Tensor]
) -> float:
    ids, mask = batch
    # No attention mask: padding is on the right, where a causal model does not look.
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    targets = mask[:, 1:]
    loss = cross_entropy(logits[targets], ids[:, 1:][targets])
    model.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()
