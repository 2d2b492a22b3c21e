"""Evaluation of language models on mathematics: accuracy at every context length from one pass, with the project's
graders.
"""
