"""Rollouts that a run keeps, to be looked at: `read(RUN)` gives their rows (docs/rollouts.md)."""

from spo_rlhf.rollouts.reader import read

__all__ = ["read"]
