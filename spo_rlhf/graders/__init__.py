"""Graders: is this response right? Shared by training rewards and evaluation; free of torch, Ray and vLLM."""
