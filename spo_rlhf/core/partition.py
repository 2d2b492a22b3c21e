"""Partition of a response into segments, from the probabilities (or texts) of its tokens.

A partition is a list of boundaries ``[0, b_1, .., b_{K-1}, T]``: strictly increasing token positions that cover the
response, segment k being the tokens ``b_k <= t < b_{k+1}``. The first state s_0 is the prompt itself, the last
position T is the end of the response, whose value is the reward; only the inner states need Monte Carlo.

Six kinds: ``cutpoint`` (adaptive, https://arxiv.org/abs/2505.23564), ``fixed`` (a number of tokens), ``places`` (chosen
numbers of tokens), ``segments`` (a number of segments), ``newline`` and ``subsentence``. To add one, write its record and enter it into ``PARTITIONS``.

Bias of the chain gradient (mask off, un-normalised sum over tokens, ratio 1, unbiased values)
----------------------------------------------------------------------------------------------
The estimator sum_k G_k (V(s_{b_{k+1}}) - V(s_{b_k})), G_k = sum of grad log pi(y_t | s_t) over segment k, has the
exact policy gradient as its expectation when the tokens before b alone decide whether b is a boundary. That holds for
``fixed`` and ``places``, for ``newline`` (this is why a blank line opens the next segment instead of extending the last one: the
latter would look one token ahead) and for ``subsentence`` (this is why a mark that may stand inside a number, as in
"3." before "14", closes its segment one token late).

It does not hold for ``segments``, whose boundaries need T: that a position is one tells how long the response will be,
and so something of its reward, while the value at b is that of the state alone. The gradient is exact where all
responses have one length, biased otherwise (by 1 to 10 % of its norm in the test's models). It is there for
comparison; prefer ``fixed``.

It does not hold for ``cutpoint``: b is a boundary only if the token drawn *at* b turned out improbable. With
L(s) = {y : pi(y | s) < rho}, P_L(s) its total probability and W(s) = E[R | s, next token in L(s)], the estimator's
expectation minus the policy gradient is exactly

    sum_{k >= 1} E[G_{k-1} (V(s_{b_k}) - W(s_{b_k}))]  -  sum_{k >= 0} E[G_k V(s_{b_k})],

    where V - W = (1 - P_L) (E[R | s, next token not in L] - W).

Both sums vanish where every state either has no token at or above rho (P_L = 1) or is forced (a token of probability
1, P_L = 0): the past then decides a cutpoint partition too, and the gradient is exact. Otherwise all bias comes from
improbable tokens drawn against a confident alternative, which happens with probability P_L <= 1 - rho per visit of
such a state. tests/core/test_unbiased.py checks this by enumeration.

With the probability of the *most likely* token in place of the sampled one's (`--spo.hesitation state`) the tokens before b
alone decide, and ``cutpoint`` is exact as well.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from spo_rlhf.core import subsentence
from spo_rlhf.core.options import check, option, shared, whole_numbers
from spo_rlhf.core.registry import Registry
from spo_rlhf.core.values import Floats

if TYPE_CHECKING:
    import torch

PROB_THRESHOLD = 0.9  # rho: below it the policy hesitates
# Whose probability that is: of the token that was sampled, or of the most likely one, which is a matter of the state alone.
HESITATIONS = ("token", "state")


@overload
def below_threshold(prob_T: "torch.Tensor", threshold: float) -> "torch.Tensor": ...
@overload
def below_threshold(prob_T: Floats, threshold: float) -> np.ndarray: ...
def below_threshold(prob_T: Any, threshold: float) -> Any:
    """Where the policy hesitates: p < threshold, strictly, compared in float64.

    The one definition behind both the cutpoints and the loss mask. Takes a sequence or numpy array (returns a numpy
    bool array) or a torch tensor of any shape (returns a bool tensor on its device). Log-probabilities are to be
    exponentiated in float64 as well, so that every caller decides alike about a token at the threshold.
    """
    prob_T = prob_T.double() if hasattr(prob_T, "double") else np.asarray(prob_T, dtype=np.float64)
    return prob_T < threshold


def check_threshold(threshold: object, name: str) -> None:
    """Raise ValueError unless ``threshold`` is a probability threshold: 0 < threshold <= 1."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
        raise ValueError(f"{name} is {threshold!r}: give a number above 0 and at most 1")


def _check_count(count: object, name: str) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} is {count!r}: give a whole number of at least 1")


def cutpoint_boundaries(prob_T: Floats, threshold: float, interval: int) -> list[int]:
    """Boundaries before every ``interval``-th cutpoint: exactly that many per segment, 1..interval in the last.

    With C = {t : p_t < threshold} in order: [0] + [C[k * interval] for k = 1 .. ceil(|C| / interval) - 1] + [T].
    Without a cutpoint the response is one segment. ``prob_T`` (T,): the behaviour policy's probability of each token.
    """
    _check_count(interval, "the cutpoint interval")
    num_tokens = _num_tokens(prob_T)
    cutpoint_C = np.flatnonzero(below_threshold(prob_T, threshold))
    return [0, *cutpoint_C[interval::interval].tolist(), num_tokens]


def fixed_boundaries(num_tokens: int, segment_length: int) -> list[int]:
    """Boundaries every ``segment_length`` tokens, counted from 0; the last segment may be shorter."""
    _check_count(segment_length, "the segment length")
    _check_count(num_tokens, "the number of response tokens")
    return [*range(0, num_tokens, segment_length), num_tokens]


def equal_boundaries(num_tokens: int, segment_count: int) -> list[int]:
    """Boundaries of ``segment_count`` segments that differ by at most one token; fewer in a shorter response."""
    _check_count(segment_count, "the number of segments")
    _check_count(num_tokens, "the number of response tokens")
    count = min(segment_count, num_tokens)
    return [k * num_tokens // count for k in range(count + 1)]


def newline_boundaries(text_T: Sequence[str] | None) -> list[int]:
    r"""Boundaries after each token that ends a line of text.

    ``text_T``: the text of each token. A token with a line feed anywhere in it ends a line (tokens are not divided).
    A blank line closes nothing: it opens the segment of the text that follows, so a run of line ends closes one
    segment, leading blank lines belong to the first, and blank lines at the very end form the last one.
    Raises ValueError for an empty response or without texts.
    """
    text_T = _texts(text_T, "newline")
    return _piece_boundaries(["\n" in text for text in text_T], [bool(text.strip()) for text in text_T])


def subsentence_boundaries(text_T: Sequence[str] | None, *, late: bool = True) -> list[int]:
    """Boundaries after each token that ends a subsentence (``spo_rlhf.core.subsentence``, which explains ``late``).

    As with lines, marks and blanks without a word between them close one segment and open the next.
    Raises ValueError for an empty response or without texts.
    """
    text_T = _texts(text_T, "subsentence")
    return _piece_boundaries(subsentence.ends(text_T, late=late), [subsentence.has_words(text) for text in text_T])


def _piece_boundaries(ends_T: list[bool], has_text_T: list[bool]) -> list[int]:
    """Boundaries after each token that ends a piece, if there was text since the last one."""
    boundary_K = [0]
    has_text = False
    for position in range(len(ends_T) - 1):
        has_text = has_text or has_text_T[position]
        if has_text and ends_T[position]:
            boundary_K.append(position + 1)
            has_text = False
    return [*boundary_K, len(ends_T)]


@dataclass(frozen=True, kw_only=True)
class Partition(ABC):
    """How a response is cut; its fields are its options. Raises OptionError for one out of range."""

    needs_text: ClassVar[bool] = False  # the text of each token

    def __post_init__(self) -> None:
        check(self)

    @abstractmethod
    def cut(self, prob_T: Any, text_T: Sequence[str] | None) -> list[int]:
        """Boundaries [0, .., T] (K + 1,) of a response of T > 0 tokens; what a partition is."""

    def boundaries(self, prob_T: Any, text_T: Sequence[str] | None = None) -> list[int]:
        """Boundaries [0, .., T] of a response, checked.

        ``prob_T`` (T,): probability of each token under the behaviour policy, or of the most likely one; ``text_T`` (T,): what it adds to the
        text, for those that look at text.
        Raises ValueError for an empty response, for missing or mismatched texts, and for boundaries that are none.
        """
        if text_T is not None and len(text_T) != len(prob_T):
            raise ValueError(f"{len(text_T)} token texts for {len(prob_T)} probabilities: give one text per token")
        boundary_K = self.cut(prob_T, text_T)
        rising = all(start < end for start, end in zip(boundary_K, boundary_K[1:], strict=False))
        if len(boundary_K) < 2 or boundary_K[0] != 0 or boundary_K[-1] != len(prob_T) or not rising:
            raise ValueError(f"partition {self} gave {boundary_K}: boundaries rise from 0 to {len(prob_T)}")
        return boundary_K


@dataclass(frozen=True, kw_only=True)
class Cutpoint(Partition):
    """A boundary before every `interval`-th token at which the policy hesitated."""

    interval: int = option(5, flag="cutpoint_interval", at_least=1, metavar="I", help="cutpoints per segment")
    threshold: float = shared("prob_threshold", PROB_THRESHOLD)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_threshold(self.threshold, "the cutpoint threshold")

    def cut(self, prob_T: Any, text_T: Sequence[str] | None) -> list[int]:
        return cutpoint_boundaries(prob_T, self.threshold, self.interval)


@dataclass(frozen=True, kw_only=True)
class Fixed(Partition):
    """A boundary every so many tokens."""

    segment_length: int = option(
        parse=int, required=True, at_least=1, metavar="L", help="tokens per segment, such as 30"
    )

    def cut(self, prob_T: Any, text_T: Sequence[str] | None) -> list[int]:
        return fixed_boundaries(len(prob_T), self.segment_length)


@dataclass(frozen=True, kw_only=True)
class Places(Partition):
    """Boundaries behind chosen numbers of tokens, those that a response reaches: few, where outcomes are settled."""

    places: tuple[int, ...] = option(
        parse=whole_numbers, required=True, metavar="N[,N..]", help="tokens before each boundary, rising, such as 120"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.places or any(a >= b for a, b in zip((0, *self.places), self.places)):
            raise ValueError(
                f"--spo.places {','.join(map(str, self.places))}: numbers from 1, each above the one before"
            )

    def cut(self, prob_T: Any, text_T: Sequence[str] | None) -> list[int]:
        length = _num_tokens(prob_T)
        return [0, *(place for place in self.places if place < length), length]


@dataclass(frozen=True, kw_only=True)
class EqualSegments(Partition):
    """So many segments a response, all of about one length."""

    segment_count: int = option(
        parse=int, required=True, at_least=1, metavar="N", help="segments per response, such as 5"
    )

    def cut(self, prob_T: Any, text_T: Sequence[str] | None) -> list[int]:
        return equal_boundaries(len(prob_T), self.segment_count)


@dataclass(frozen=True, kw_only=True)
class Newline(Partition):
    """A boundary after each line."""

    needs_text = True

    def cut(self, prob_T: Any, text_T: Sequence[str] | None) -> list[int]:
        return newline_boundaries(text_T)


@dataclass(frozen=True, kw_only=True)
class Subsentence(Partition):
    """A boundary after , . ; : ! ? and line feeds."""

    needs_text = True

    def cut(self, prob_T: Any, text_T: Sequence[str] | None) -> list[int]:
        return subsentence_boundaries(text_T)


PARTITIONS: Registry[type[Partition]] = Registry(
    "partition",
    {
        "cutpoint": Cutpoint,
        "fixed": Fixed,
        "places": Places,
        "segments": EqualSegments,
        "newline": Newline,
        "subsentence": Subsentence,
    },
)


def inner_states(boundary_K: Sequence[int]) -> list[int]:
    """The positions where a Monte Carlo value is needed: all boundaries but the prompt (0) and the end (T)."""
    return list(boundary_K[1:-1])


def _texts(text_T: Sequence[str] | None, kind: str) -> list[str]:
    if text_T is None:
        raise ValueError(f"partition {kind!r} needs the text of each token")
    _num_tokens(text_T)
    return list(text_T)


def _num_tokens(token_T: Sized) -> int:
    if len(token_T) == 0:
        raise ValueError("the response is empty: a partition needs at least one token")
    return len(token_T)
