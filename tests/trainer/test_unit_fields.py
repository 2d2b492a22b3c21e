"""Units and clip factors on their way from the sample to the loss, through OpenRLHF's own batching and its Actor."""

import math
from dataclasses import replace

import pytest
import torch
from batches import ADV, PROB, PROMPT, RESPONSE, SPO, arguments, experience

from spo_rlhf import upstream
from spo_rlhf.core.units import RATIO_LEVELS
from spo_rlhf.rollout.records import Sample
from spo_rlhf.tasks import small_model
from spo_rlhf.trainer.experience import fill_from, scale_clip, trained_tokens
from spo_rlhf.trainer.policy_loss import SegmentPolicyLoss
from spo_rlhf.trainer.samples import unit_columns

EVERY_TOKEN = replace(SPO, prob_mask=False)


@pytest.fixture(scope="module")
def tokenizer():
    return small_model.build_tokenizer(["It is 3.14, so yes.\n"] * 3)


def response(prompt_ids: list[int], *turns: list[int], between: tuple[int, ...] = ()) -> Sample:
    """A sample: the turns of the policy, each but the first after the tokens `between`."""
    tokens, ranges = list(prompt_ids), []
    for turn in turns:
        tokens += between if ranges else []
        ranges.append((len(tokens), len(tokens) + len(turn)))
        tokens += turn
    return Sample(tokens, ranges, None, truncated=False, reward=None)


def test_units_stand_in_the_columns_of_their_tokens(tokenizer):
    token_ids = tokenizer("3.1, 2")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(token_ids) == ["3", ".", "1", ",", "Ġ", "2"]
    made = response([5, 5, 5], token_ids)
    assert unit_columns("subsentence", made, tokenizer).tolist() == [[0, 0, 1, 1, 1, 1, 2, 2]]
    made.boundaries = [0, 1, 5, 6]
    assert unit_columns("segment", made, tokenizer).tolist() == [[0, 0, 1, 2, 2, 2, 2, 3]]
    assert unit_columns("token", made, tokenizer) is None and unit_columns("sequence", made, tokenizer) is None


def test_turns_of_a_conversation_have_units_of_their_own(tokenizer):
    yes = tokenizer("yes, so")["input_ids"]
    made = response([5, 5], yes, yes, between=(7, 7))
    columns = unit_columns("subsentence", made, tokenizer)[0].tolist()
    first = columns[1 : 1 + len(yes)]
    assert sorted(set(first)) == [1, 2] and columns[1 + len(yes) :] == [0, 0, *(unit + 2 for unit in first)]


def test_fields_survive_batching_splitting_and_padding():
    from openrlhf.trainer.ppo_utils.experience import (
        make_experience_batch,
        remove_padding_in_sequences,
        split_experience_batch,
    )

    samples = []
    for length in (3, 5):
        columns = torch.arange(1, length).unsqueeze(0)
        samples.append(
            upstream.Experience(
                sequences=torch.ones(1, length, dtype=torch.long),
                attention_mask=torch.ones(1, length, dtype=torch.long),
                action_mask=torch.ones(1, length - 1),
                unit_ids=columns,
                clip_scale=columns / 10,
                index=[0],
                **dict.fromkeys(("prompts", "labels", "images", "mm_train_inputs"), [None]),
            )
        )
    together = upstream.Experience.concat_experiences(samples, pad_token_id=9)
    assert together.unit_ids.tolist() == [[1, 2, 0, 0], [1, 2, 3, 4]]
    items = remove_padding_in_sequences(split_experience_batch(together))
    assert [item.unit_ids.tolist() for item in items] == [[1, 2], [1, 2, 3, 4]]
    again = make_experience_batch(items)
    assert torch.equal(again.unit_ids, together.unit_ids) and torch.equal(again.clip_scale, together.clip_scale)
    fill_from(samples[0], again, 0)  # a node of a tree gets its row back
    # A checkpoint holds the fields of a waiting sample, and Experience is made of them again.
    type(samples[0])(**vars(samples[0]))
    assert samples[0].clip_scale.tolist() == [pytest.approx([0.1, 0.2])]


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_clip_factors_compare_units_with_the_mean_of_the_whole_rollout_batch(level):
    spo = replace(SPO, ratio_level=level, entropy_clip=0.5)
    rows = [*PROB, [0.3] * RESPONSE]
    adv = [*ADV, ADV[0]]
    entropy = torch.rand(3, PROMPT + RESPONSE - 1, generator=torch.Generator().manual_seed(0))

    def batch(chosen: slice) -> upstream.Experience:
        made = experience(rows[chosen], adv[chosen])
        made.unit_ids = torch.tensor([[0, 0, 1, 1, 2, 2]]).expand(len(made.sequences), -1)
        return made

    whole, split = [batch(slice(0, 3))], [batch(slice(0, 1)), batch(slice(1, 3))]
    scale_clip(whole, [entropy], spo)
    scale_clip(split, [entropy[:1], entropy[1:]], spo)
    assert torch.equal(whole[0].clip_scale, torch.cat([part.clip_scale for part in split]))
    mask = trained_tokens(whole[0], spo)
    mean = entropy[mask].mean().item()
    # Of the first row, tokens 0 and 3 are trained: units 1 and 2, or both of the one unit of the sequence.
    both = (entropy[0, 2] + entropy[0, 5]).item() / 2
    first = both if level == "sequence" else entropy[0, 2].item()
    assert whole[0].clip_scale[0, 2].item() == pytest.approx(1 + 0.5 * min(max(first / mean - 1, -1), 1), rel=1e-5)
    assert whole[0].info["entropy"][0].item() == pytest.approx(both, rel=1e-5)
    assert whole[0].info["entropy"][1] == 0, "no trained token"


def real_actor(tokenizer, *, packed: bool, temperature: float = 0.7):
    """OpenRLHF's Actor around a tiny model; packed samples through PyTorch's own attention."""
    from openrlhf.models import Actor

    model = small_model.build_model(tokenizer, seed=0, hidden_size=64, layers=2)
    model.config.use_cache = False  # as Actor sets it for a model it loads itself
    actor = Actor(model, temperature=temperature)
    actor.packing_samples = packed
    return actor


def token_batch(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sequences of different lengths, their attention and action masks; prompts of 2 tokens."""
    sequences = torch.randint(2, 200, (rows, 9), generator=torch.Generator().manual_seed(1))
    attention = (torch.arange(9) < torch.tensor([[9], [6], [8]])).long()
    actions = attention[:, 1:].clone()
    actions[:, 0] = 0
    return sequences, attention, actions


def test_entropies_come_from_the_pass_that_makes_the_log_probs(tokenizer):
    actor, (sequences, attention, actions) = real_actor(tokenizer, packed=False), token_batch()
    with torch.no_grad():
        plain = actor(sequences, actions, attention)
        with upstream.entropies(actor) as seen:
            log_probs = actor(sequences, actions, attention)
        logits = actor.model(sequences, attention_mask=attention).logits / actor.temperature
    assert torch.equal(log_probs, plain) and len(seen) == 1
    expected = torch.distributions.Categorical(logits=logits).entropy()[:, :-1]
    torch.testing.assert_close(seen[0][actions.bool()], expected[actions.bool()], rtol=1e-5, atol=1e-5)
    assert seen[0].min() > 0 and seen[0].max() <= math.log(logits.shape[-1])
    assert isinstance(actor(sequences, actions, attention), torch.Tensor), "the hooks are gone"


@pytest.mark.parametrize("level", RATIO_LEVELS)
def test_packed_and_padded_batches_agree(tokenizer, level):
    sequences, attention, actions = token_batch()
    results = []
    for packed in (True, False):
        actor = real_actor(tokenizer, packed=packed)
        with upstream.entropies(actor) as seen:
            log_probs = actor(sequences, actions, attention)
        generator = torch.Generator().manual_seed(2)
        old = log_probs.detach() + 0.3 * torch.randn(log_probs.shape, generator=generator) * actions
        batch = upstream.Experience(
            action_mask=actions.bool(),
            action_log_probs=old,
            advantages=torch.randn(log_probs.shape, generator=generator) * actions,
            unit_ids=torch.tensor([0, 1, 1, 2, 2, 2, 3, 3]).expand(3, -1) * actions,
            info={},
        )
        spo = replace(EVERY_TOKEN, ratio_level=level, entropy_clip=0.5)
        scale_clip([batch], [seen[0].detach()], spo)
        args = arguments(spo)
        loss_fn = SegmentPolicyLoss(args)
        loss_fn.bind(batch, 0.0)
        loss, *_ = loss_fn(log_probs, old, batch.advantages, batch.action_mask, batch_num_tokens=actions.sum())
        loss.backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in actor.model.parameters()])
        results.append((loss.item(), gradient, batch.clip_scale * actions))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5) and results[1][1].norm() > 1e-3
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(results[0][2], results[1][2], rtol=1e-4, atol=1e-5)
