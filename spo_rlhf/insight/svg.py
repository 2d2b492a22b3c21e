"""A figure as inline SVG, in the colours of the page around it."""

from collections.abc import Sequence
from math import ceil, floor, isfinite, log10

from spo_rlhf.insight.figures import Curve, Figure
from spo_rlhf.insight.page import text

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 40
SERIES = 6  # colours of common.css
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "1 4")  # lines can be told apart without colours


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from the last below `low` to the first above `high`."""
    span = high - low or abs(high) or 1.0
    rough = span / (most - 1)
    size = 10 ** floor(log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def short(number: float) -> str:
    """A tick in few letters: 0.25, 120k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if unit == 'k' else size):g}{unit}"
    return f"{number:.4g}"


def draw(figure: Figure) -> str:
    """An <svg> with axes, a line and a band for each curve, and a description for who does not see it."""
    curves = [_finite(curve) for curve in figure.curves]
    ys = [y for curve in curves for y in (*curve.low, *curve.high)] or [0.0]
    xs = [x for curve in curves for x in curve.x] or [0.0]
    if figure.diagonal:
        xs, ys = [*xs, 0.0, 1.0], [*ys, 0.0, 1.0]
    # From 0 on: an axis that starts elsewhere makes much of little.
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(0.0, *ys), max(0.0, *ys))
    if not figure.diagonal and len(set(xs)) > 1:
        x_ticks = [tick for tick in x_ticks if min(xs) <= tick <= max(xs)] or x_ticks
        x_low, x_high = min(xs), max(xs)
    else:
        x_low, x_high = x_ticks[0], x_ticks[-1]

    def across(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (HEIGHT - TOP - BOTTOM)

    told = "; ".join(_in_words(curve) for curve in curves)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(f"{figure.title}: {told}")}">',
        *(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>'
            for y in y_ticks
        ),
        *(f'<text class="y" x="{LEFT - 6}" y="{down(y) + 4:.1f}">{text(short(y))}</text>' for y in y_ticks),
        *(f'<text class="x" x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}">{text(short(x))}</text>' for x in x_ticks),
        f'<text class="x label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}">{text(figure.x_label)}</text>',
        f'<text class="x label" transform="rotate(-90)" x="{-(TOP + HEIGHT - BOTTOM) / 2}" y="12">{text(figure.y_label)}</text>',
    ]
    if figure.diagonal:
        parts.append(f'<path class="diagonal" d="M{across(0):.1f} {down(0):.1f}L{across(1):.1f} {down(1):.1f}"/>')
    for number, curve in enumerate(curves):
        places = [(across(x), down(y)) for x, y in zip(curve.x, curve.mean)]
        colour = f"var(--series-{number % SERIES})"
        if curve.runs > 1 or figure.diagonal:
            edge = [*zip(curve.x, curve.high), *reversed(list(zip(curve.x, curve.low)))]
            parts.append(f'<path class="band" fill="{colour}" d="{_path([(across(x), down(y)) for x, y in edge])}Z"/>')
        dash = f' stroke-dasharray="{DASHES[number % SERIES]}"' if DASHES[number % SERIES] else ""
        parts.append(f'<path class="line" stroke="{colour}"{dash} d="{_path(places)}"/>')
        if len(places) <= 30:
            parts += [f'<circle r="3" fill="{colour}" cx="{x:.1f}" cy="{y:.1f}"/>' for x, y in places]
    return "".join([*parts, "</svg>"])


def legend(figure: Figure) -> str:
    """Names of the curves beside a piece of their line; empty where there is one alone."""
    if len(figure.curves) < 2:
        return ""
    keys = []
    for number, curve in enumerate(figure.curves):
        dash = DASHES[number % SERIES]
        line = (
            f'<line x1="0" x2="26" y1="5" y2="5" stroke="var(--series-{number % SERIES})" stroke-dasharray="{dash}"/>'
        )
        keys.append(
            f'<li><svg class="key" viewBox="0 0 26 10" aria-hidden="true">{line}</svg> {text(curve.label)}</li>'
        )
    return f'<ul class="legend">{"".join(keys)}</ul>'


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _finite(curve: Curve) -> Curve:
    kept = [row for row in zip(curve.x, curve.mean, curve.low, curve.high) if all(map(isfinite, row))]
    x, mean, low, high = (list(column) for column in zip(*kept)) if kept else ([], [], [], [])
    return Curve(curve.label, x, mean, low, high, curve.runs)


def _in_words(curve: Curve) -> str:
    if not curve.x:
        return f"{curve.label}: no finite values"
    return f"{curve.label} from {short(curve.mean[0])} at {short(curve.x[0])} to {short(curve.mean[-1])} at {short(curve.x[-1])}"
