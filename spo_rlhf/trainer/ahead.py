"""How far sampling runs ahead of training: which batch may be sent, and when new weights are due. Decisions only: no engine, no clock.

A batch is sampled by the weights that the engines have when it is sent, and trained behind all that were sent before it. Each of
those makes one update at most, so the largest age that it can have, in updates, is known when it is sent.
"""

from dataclasses import dataclass


@dataclass
class Ahead:
    """`bound`: updates that may lie between sampling a batch and training it; 0: the two alternate."""

    bound: int
    partial: bool = False  # a response may go on after new weights
    updates: int = 0  # of the policy, that the engines have not got

    def may_send(self, before: int) -> bool:
        """A further batch is within the bound, behind so many that were sent and not trained."""
        return self.updates + before <= self.bound

    def wants_weights(self, unanswered: int) -> bool:
        """New weights are due: there are some, and no request is in flight, unless its tokens may be of two policies.

        With a bound of 1 nothing is, before every batch. With more it is so where the engines are through with what may be sent.
        """
        return self.updates > 0 and (self.partial or unanswered == 0)

    def trained(self) -> None:
        """The policy was updated."""
        self.updates += 1

    def sent_weights(self) -> None:
        """The engines have got the policy's weights."""
        self.updates = 0
