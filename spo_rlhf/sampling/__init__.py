"""Sampling without training: engines that answer a list of requests, samples on disk that survive a kill."""
