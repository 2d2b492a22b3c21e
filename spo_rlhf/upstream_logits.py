"""OpenRLHF's Actor without the logits of a whole micro-batch: its head gives log-probs, in chunks.

OpenRLHF takes the logits (B, T, V) from its model, in float32, and keeps them until backward is done. Here the model's head
gives (log-prob, entropy) of each token instead, a tensor (B, T, 2) in the place of the logits, and what the Actor makes of
logits is bound anew for the time of the call. The head computes where the model calls it, once: with ZeRO-3 its weight is whole
only between DeepSpeed's hooks around that call, and again between those around its backward.
"""

import contextlib
from collections.abc import Callable
from typing import Any

_LOG_PROB, _ENTROPY = 0, 1
#: In the configurations of transformers, that of the text where there are several: what a model does with the head's output.
#: 1 or None: nothing.
AFTER_THE_HEAD = ("logit_scale", "logits_scaling")
#: With which it caps that output, as it reads there at each call. None: not.
CAP = "final_logit_softcapping"


def with_chunks(actor_class: type, attribute: str) -> type:
    """A subclass of one of OpenRLHF's model actors whose Actor, held in `attribute`, computes log-probs in chunks."""

    class ModelActor(actor_class):
        def init_model_from_pretrained(self, strategy, *args, **kwargs):
            super().init_model_from_pretrained(strategy, *args, **kwargs)
            chunk_logits(getattr(self, attribute), strategy.args.spo.chunk_of)

    return ModelActor


def chunk_logits(actor: Any, chunk_of: Callable[[int], int]) -> None:
    """Let OpenRLHF's Actor, in place, hold the logits of `chunk_of(vocabulary)` tokens at a time; 0: of all, as it is.

    A micro-batch of no more tokens runs as before. So does everything where the head is no plain linear layer, or the model
    goes on with its output (scaled logits; those that it caps are capped in chunks).
    """
    model = getattr(actor.model, "module", actor.model)
    head = plain_head(model)
    chunk = 0 if head is None else chunk_of(head.out_features)
    if not chunk:
        return
    whole = actor.forward

    def forward(sequences, action_mask=None, *args, **kwargs):
        if sequences.numel() <= chunk or (action_mask is None and not kwargs.get("return_logprobs")):
            return whole(sequences, action_mask, *args, **kwargs)
        with _in_chunks(actor, model, sequences, chunk, with_entropy=bool(kwargs.get("return_entropy"))):
            return whole(sequences, action_mask, *args, **kwargs)

    actor.forward = forward


def plain_head(model: Any) -> Any:
    """The head of a model of transformers, where it is a plain linear layer whose output the model leaves as it is, or caps; else
    None.
    """
    import torch

    head = model.get_output_embeddings()
    text = model.config.get_text_config()
    goes_on = any(getattr(text, one, None) not in (None, 1) for one in AFTER_THE_HEAD)
    return None if goes_on or type(head) is not torch.nn.Linear else head


def cap_of(model: Any) -> float | None:
    """What the model caps its logits with; None where it does not."""
    return getattr(model.config.get_text_config(), CAP, None)


@contextlib.contextmanager
def head_gives(model: Any, compute: Callable[[Any], Any]):
    """Context in which a model's head gives `compute(hidden)` for logits, and the model does not cap it. Yields a check: that this
    is what the model returned.
    """
    given = None

    def forward(hidden):
        nonlocal given
        given = compute(hidden)
        return given

    def check(returned):
        # DeepSpeed's hooks hand on the same storage; anything else has been computed with.
        if given is None or returned.data_ptr() != given.data_ptr():
            raise RuntimeError("this model goes on with its head's output: give --spo.logits_chunk_tokens 0")
        return returned

    capped = cap_of(model) is not None
    uncapped = rebound(model.config.get_text_config(), CAP, None) if capped else contextlib.nullcontext()
    with rebound(model.get_output_embeddings(), "forward", forward), uncapped:
        yield check


@contextlib.contextmanager
def _in_chunks(actor: Any, model: Any, sequences: Any, chunk: int, *, with_entropy: bool):
    """Context in which the Actor's forward gets log-probs and entropies from its head, and takes them for logits."""
    import openrlhf.models.actor as module
    import torch

    from spo_rlhf.core.log_probs import chunked_log_probs

    unpad, temperature = module.unpad_and_slice_tensor, actor.temperature
    labels, head, cap = sequences.roll(-1, 1), model.get_output_embeddings(), cap_of(model)

    def unpad_and_keep(*args):
        nonlocal labels
        result = unpad(*args)
        labels = result[2]  # of packed samples, this rank's
        return result

    def log_probs(hidden):
        logp_N, entropy_N = chunked_log_probs(
            hidden.flatten(0, -2),
            head.weight,
            head.bias,
            labels.flatten(),
            temperature=temperature,
            chunk=chunk,
            with_entropy=with_entropy,
            cap=cap,
        )
        columns = [logp_N] if entropy_N is None else [logp_N, entropy_N]
        return torch.stack(columns, -1).unflatten(0, hidden.shape[:-1])

    def column(which):
        return lambda logits, *_: check(logits)[..., which]

    with (
        head_gives(model, log_probs) as check,
        rebound(actor, "temperature", 1.0),  # the head has divided by it
        rebound(module, "unpad_and_slice_tensor", unpad_and_keep),
        rebound(module, "log_probs_from_logits", column(_LOG_PROB)),
        rebound(module, "compute_entropy", column(_ENTROPY)),
    ):
        yield


@contextlib.contextmanager
def rebound(owner: Any, name: str, value: Any):
    """Context in which an attribute is another one. What the owner had from its class alone it has from there again."""
    own, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)
