"""The algorithm as pure functions: standard library, numpy and torch only."""
