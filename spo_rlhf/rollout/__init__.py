"""Sampling: responses and Monte Carlo continuations on the inference engines, and their rewards."""
