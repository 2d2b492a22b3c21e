"""Evaluation of language models: accuracy at every context length from one pass, with the project's graders."""
