"""A resolved run from its start to its end: checks, placement, start, output, record."""
