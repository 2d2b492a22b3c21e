"""What the policy itself gives for the right answer behind a prefix: features of a state that cost a forward pass and no token.

P(gold | s) is the product of the probabilities of the answer's tokens behind "s, template". It is a function of the prefix and
the prompt's label alone: known before the next token of the response is drawn, whatever that will be.
"""

from collections.abc import Sequence

import numpy as np

FEATURES = 3
LONGEST = 64  # tokens of an answer: of longer ones no probability is left


def answer_start(whole_ids: Sequence[int], head_ids: Sequence[int]) -> int:
    """Tokens of a text that belong to its beginning, told the tokens of both: as many as they share."""
    shared = 0
    for mine, its in zip(whole_ids, head_ids):
        if mine != its:
            break
        shared += 1
    return min(shared, len(whole_ids) - 1)


def features(logprobs: Sequence[Sequence[float]]) -> np.ndarray:
    """Features (K, 3) of the states of a response, from the log-probs of the answer's tokens behind each.

    P, the mean log-prob of a token, and by how much that differs from the first state's. Nothing of a later state enters.
    """
    total_K = np.array([sum(one) for one in logprobs])
    mean_K = np.array([sum(one) / len(one) for one in logprobs])
    return np.stack([np.exp(total_K), mean_K, mean_K - mean_K[0]], axis=1)
