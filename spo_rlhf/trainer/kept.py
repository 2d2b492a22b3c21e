"""Rollouts for the record of a run: from the update's own batch to rows, as an event to the command line, which writes them.

Nothing here can end a run: what goes wrong is told once, and nothing more is kept.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

from spo_rlhf import upstream
from spo_rlhf.config import SpoConfig
from spo_rlhf.core.options import name_of
from spo_rlhf.methods import METHODS
from spo_rlhf.rollout.records import Rollout
from spo_rlhf.rollout.texts import token_texts
from spo_rlhf.rollouts.rows import Keeping, Key, Trained, keys, marked, packed
from spo_rlhf.trainer.events import Reporter


class KeptRollouts:
    """Sends the rows of a few prompts of every step, `--spo.save_rollouts`."""

    def __init__(self, args: SimpleNamespace, tokenizer: Any, reporter: Reporter):
        spo: SpoConfig = args.spo
        self.reporter, self.on = reporter, spo.save_rollouts > 0
        self.keeping = Keeping(
            prompts=spo.save_rollouts,
            seed=args.train.seed,
            method=name_of(METHODS, spo.method),
            threshold=spo.prob_threshold,
            masked=spo.masked,
            token_texts=lambda token_ids: texts(tokenizer, token_ids),
            node_advantages=spo.method.node_advantages,
        )

    def send(
        self, step: int, rollouts: Sequence[Rollout], experiences: Iterable[upstream.Experience]
    ) -> dict[str, Any]:
        """Those of the step that `experiences` were the update of.

        Returns what OpenRLHF's loggers show of a step's samples: one, with the advantages of its segments, or nothing.
        """
        if not self.on:
            return {}
        try:
            chosen = self.keeping.choose(rollouts)
            rows = self.keeping.rows(chosen, step, trained_samples(experiences, keys(chosen)))
            self.reporter.send("rollouts", step=step, content=packed(rows))
            return upstream.logged_sample(*marked(rows)) if rows else {}
        except Exception as error:  # whatever it is, the training is worth more
            self.on = False
            what = " ".join(f"{type(error).__name__}: {error}".split())
            self.reporter.note(f"no more rollouts are kept (step {step}: {what})")
            return {}


def texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; where the tokenizer has no fast form, each token decoded by itself."""
    if hasattr(tokenizer, "backend_tokenizer"):
        return token_texts(tokenizer, token_ids)
    return [tokenizer.decode([token], skip_special_tokens=False) for token in token_ids]


def trained_samples(experiences: Iterable[upstream.Experience], wanted: set[Key]) -> dict[Key, list[Trained]]:
    """The rows of these batches that are `wanted`, with the advantages that the loss gets, from the first action on."""
    lengths, found = {len(token_ids) for _, token_ids in wanted}, defaultdict[Key, list[Trained]](list)
    for batch in experiences:
        for row, here in enumerate(batch.attention_mask.bool()):
            if int(here.sum()) not in lengths:
                continue
            # Column j of an action mask is about token j + 1.
            token_ids, actions = batch.sequences[row][here], batch.action_mask[row][here[1:]].nonzero()
            start = int(actions[0]) + 1 if len(actions) else 0
            name = (start, tuple(token_ids.tolist()))
            if name in wanted:
                adv_T = batch.advantages[row][here[1:]][start - 1 :].tolist()
                found[name].append(Trained(adv_T, float(batch.info["reward"][row])))
    return dict(found)
