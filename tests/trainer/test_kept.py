"""What the controller keeps of a step: an event with the rows, and one line where they cannot be made."""

import gzip
import json
from types import SimpleNamespace

import kept_toy

from spo_rlhf.config import SpoConfig
from spo_rlhf.tasks import small_model
from spo_rlhf.trainer.kept import KeptRollouts, texts


class Listener:
    """A Reporter that remembers."""

    def __init__(self):
        self.events, self.notes = [], []

    def send(self, event, **values):
        self.events.append((event, values))

    def note(self, text):
        self.notes.append(text)


def kept(tokenizer, **options) -> tuple[KeptRollouts, Listener]:
    args = SimpleNamespace(
        spo=SpoConfig(method=kept_toy.CHAIN, **options), train=SimpleNamespace(seed=1), data=SimpleNamespace()
    )
    listener = Listener()
    return KeptRollouts(args, tokenizer, listener), listener


def test_a_step_sends_the_rows_of_as_many_prompts_as_asked_for():
    tokenizer = small_model.build_tokenizer(["1 + 1 = 2"])
    sender, listener = kept(tokenizer, save_rollouts=2)
    sample = sender.send(7, [kept_toy.rollout(kept_toy.CHAIN, f"prompt {slot}", slot) for slot in range(3)], [])
    [(event, values)] = listener.events
    rows = [json.loads(line) for line in gzip.decompress(values["content"]).splitlines()]
    assert event == "rollouts" and {row["step"] for row in rows} == {7} == {values["step"]}
    text, reward = sample["generated_samples"]
    first = next(row for row in rows if any(row["segment_advantages"]))
    assert text.startswith(f"{first['prompt']}[{first['segment_advantages'][0]:+.2f}|") and reward == first["reward"]
    assert len({row["prompt"] for row in rows}) == 2 and len(rows) == 8 and not any(row["trained"] for row in rows)


def test_none_are_made_where_none_are_asked_for():
    sender, listener = kept(None, save_rollouts=0)
    assert sender.send(1, [kept_toy.rollout(kept_toy.CHAIN)], []) == {}
    assert listener.events == listener.notes == []


def test_what_goes_wrong_is_told_once_and_ends_no_training():
    sender, listener = kept(tokenizer=None)
    for step in (1, 2):
        sender.send(step, [kept_toy.rollout(kept_toy.CHAIN)], [])
    assert listener.events == [] and len(listener.notes) == 1
    assert listener.notes[0].startswith("no more rollouts are kept (step 1: AttributeError")


def test_a_tokenizer_without_a_fast_form_decodes_token_by_token():
    slow = SimpleNamespace(decode=lambda ids, skip_special_tokens: f"[{ids[0]}]")
    assert texts(slow, [3, 4]) == ["[3]", "[4]"]
