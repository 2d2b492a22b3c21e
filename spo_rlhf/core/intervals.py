"""Intervals of shares."""

import math

Z = 1.959963984540054  # the normal quantile at 97.5 %


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of a share of `n` independent trials; `n` may be an effective number, from 1."""
    centre, spread = share + Z * Z / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    low, high = (centre - spread) / (1 + Z * Z / n), (centre + spread) / (1 + Z * Z / n)
    # At the ends exactly: rounding must not leave the share outside of its own interval.
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)
