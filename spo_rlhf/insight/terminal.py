"""Kept rollouts on a terminal: segments coloured as on the page, or marked where there are no colours."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spo_rlhf.insight.viewer import Entry, scale
from spo_rlhf.rollouts.schema import Row

RESET, BOLD, DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
# Backgrounds of the 256 colours, weak to strong: blue where a segment helped, orange where it hurt; text that shows on them.
HELPED, HURT, ON_COLOUR = (153, 117, 75, 33), (223, 216, 209, 208), "\x1b[38;5;16m"


@dataclass(frozen=True)
class Paint:
    """`colours` False: nothing but text, an advantage in front of each segment that has one."""

    colours: bool
    scale: float

    def segment(self, row: Row, start: int, end: int, adv: float) -> str:
        """The text of a segment; tokens under the loss bold, masked ones dim."""
        text = "".join(self._tokens(row, start, end, bool(adv)))
        if not self.colours:
            return f"[{adv:+.2f}|{text}]" if adv else text
        if not adv:
            return text
        steps = HELPED if adv > 0 else HURT
        # ceil(4 |A| / scale), from 1 to 4, as on the page
        step = steps[min(len(steps), max(1, -int(-4 * abs(adv) / self.scale // 1))) - 1]
        on = f"\x1b[48;5;{step}m{ON_COLOUR}"
        # A background that went on to the end of the line would colour what is no text.
        return f"{RESET}\n".join(on + line.replace(RESET, RESET + on) for line in text.split("\n")) + RESET

    def border(self, text: str) -> str:
        """The value at a border."""
        return f"{BOLD}▏{text}{RESET}" if self.colours else f"▏{text} "

    def title(self, text: str) -> str:
        return f"{BOLD}{text}{RESET}" if self.colours else text

    def _tokens(self, row: Row, start: int, end: int, coloured: bool) -> Iterator[str]:
        for position in range(start, end):
            text = printable(row["token_texts"][position])
            if self.colours and row["mask"][position]:
                yield f"{BOLD}{text}{RESET}"
            elif self.colours and not coloured:
                yield f"{DIM}{text}{RESET}"
            else:
                yield text


def printable(text: str) -> str:
    """Without what would steer a terminal: a response may hold any character."""
    return "".join(one if one == "\n" or one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def shown(entries: Sequence[Entry], *, colours: bool) -> Iterator[str]:
    """Blocks of text, one an entry."""
    paint = Paint(colours, scale(entries))
    for entry in entries:
        yield "\n".join(_entry(entry, paint)) + "\n"


def _entry(entry: Entry, paint: Paint) -> Iterator[str]:
    first, rewards = entry.first, entry.rewards()
    reward = f"{sum(rewards) / len(rewards):.2f}" if rewards else "none"
    what = f"tree of {len(entry.rows)} nodes" if entry.is_tree else f"response {first['sample']}"
    cut = sum(row["truncated"] for row in entry.rows)
    told = [f"step {first['step']}, {what}", f"reward {reward}", f"weights {first['weight_version']}"]
    if cut:
        told.append(f"{cut} leaves cut by the length limit" if entry.is_tree else "cut by the length limit")
    yield paint.title("  ".join(told))
    yield f"{printable(first['prompt']).rstrip()}   (label {printable(first['label'])})"
    if entry.is_tree:
        yield from _nodes(entry.rows, 0, paint)
    else:
        yield response(first, paint)


def _nodes(rows: Sequence[Row], parent: int, paint: Paint) -> Iterator[str]:
    for row in (one for one in rows if one["parent"] == parent):
        pad = "  " * row["level"]
        reward = "" if row["reward"] is None else f"  reward {row['reward']:.2f}"
        adv = row["segment_advantages"][0]
        outcomes = f"({row['value_counts'][-1]})"
        yield f"{pad}node {row['sample']}  A {adv:+.2f}  V {_value(row, -1)} {outcomes}{reward}"
        yield "\n".join(pad + line for line in response(row, paint).split("\n"))
        yield from _nodes(rows, row["sample"], paint)


def response(row: Row, paint: Paint) -> str:
    """The text of a response or a node by segment, V ± standard error at every border."""
    boundaries, advs = row["boundaries"], row["segment_advantages"]
    if not advs:
        return paint.segment(row, 0, len(row["token_texts"]), 0.0)
    parts: list[str] = []
    for k, (start, end, adv) in enumerate(zip(boundaries, boundaries[1:], advs)):
        if row["values"]:
            parts.append(paint.border(_value(row, k)))
        parts.append(paint.segment(row, start, end, adv))
    if row["values"]:
        parts.append(paint.border(_value(row, -1)))
    return "".join(parts)


def _value(row: Row, k: int) -> str:
    error = row["value_stderrs"][k]
    return f"{row['values'][k]:.2f}" + (f"±{error:.2f}" if error else "")
