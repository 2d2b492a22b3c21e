"""The final answer of a model's output, as text. Linear in the length of the output, whatever it holds.

Only an explicit answer counts: the last `\\boxed{...}` or the last line after "####", outside any thought. Boxes that
stand side by side ("\\boxed{5} or \\boxed{6}") are one answer with several parts, so listing guesses does not help.
"""

import re
from dataclasses import dataclass

from spo_rlhf.graders.vocabulary import TURNING, senses_of

MAX_OUTPUT_CHARS = 200_000  # a response of 32k tokens has about 130k characters
MAX_BOXES = 100
MAX_DISTINCT_ANSWERS = 8
MAX_GAP_CHARS = 60

SPECIAL_TOKEN = re.compile(
    r"<\|(?:im|end|begin|start|eot|eom|pad|return)[a-z_]{0,30}\|>|<｜[^｜>]{1,40}｜>|</?s>|<(?:eos|bos|pad|end_of_turn)>"
)
THOUGHT_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<|begin_of_thought|>", "<|end_of_thought|>"))
BOX_TOKEN = re.compile(
    r"\\{1,4}(?:boxed|fbox)\s*\{|\\{1,4}(?:boxed|fbox)\s*(?P<bare>[-+]?[\d.][\w.,/]*|(?![aI]\b)[A-Za-z](?!\w))|\\[\s\S]|[{}]"
)
# The answer stands on the line of "####", or below it where that line is only a heading.
HASH_LINE = re.compile(r"####[ \t]*(?:\**(?:the )?(?:final )?answer\**:?\**[ \t]*\n\s*)?([^\n]*)", re.IGNORECASE)
ANSWER_IS = re.compile(r"^(?:the )?(?:final )?answer\s*(?:is\b|:)[\s*]*", re.IGNORECASE)
REMARK = re.compile(r"\s+\((?![^()]*\bor\b)[^()\\]*[A-Za-z]{2}[^()\\]*\)\s*$")  # "18 (since 9 * 2 = 18)"
MAX_SENSE_WORDS = 3
HEADING = re.compile(r"\d+[.)]\s+[A-Za-z]{2}")
VALUE_START = re.compile(r"[-+(\[{*]*\s*(?:\\?\$\s*)*[-+]?\s*(?:[\d.]|\\(?!text))")
# What may stand between boxes of one answer: "and", "or maybe", "; ", "$ and $y = $", "Option 2: ".
CONNECTOR = re.compile(
    r"(?:\s|[,;:&$.*/()]|\\[()\[\],;]|\\q?quad|\\text\{\s*(?:and|or)\s*\}|"
    r"\b(?:and|or|maybe|perhaps|possibly|alternatively|either|also)\b|\b(?:option|case|possibility)\s*\w?\b|"
    r"[A-Za-z](?:_(?:\w|\{\w\}))?\s*=)*",
    re.IGNORECASE,
)
ALTERNATIVES = frozenset("or maybe perhaps possibly alternatively either".split())
# The letter that a box is given to: "$y = \\boxed{2}$".
NAME_BEFORE = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_(?:\w|\{\w\}))?)\s*=\s*(?:\$|\\[(\[]|\s)*$")
MINUS_BEFORE = re.compile(r"(?:[=$]|\\[(\[])\s*-\s*$")  # "$x = -\\boxed{5}$"
MAX_NAME_CHARS = 20


@dataclass(frozen=True)
class Extraction:
    """`answer` is None where there is none, and `reason` then says why. `parts`: the boxes that were joined into it."""

    answer: str | None
    reason: str = ""
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    content: str


def extract(output: str, in_thought: bool = False) -> Extraction:
    """The answer that a model's output gives.

    Args:
        output: everything the model wrote.
        in_thought: the prompt already opened a thought, so that nothing counts before the thought is closed.
    """
    if len(output) > MAX_OUTPUT_CHARS:
        return Extraction(None, f"output longer than {MAX_OUTPUT_CHARS} characters")
    if "\x00" in output:
        return Extraction(None, "null byte in the output")
    text = after_thought(output, in_thought)
    if text is None:
        return Extraction(None, "the thought is not finished")
    text = SPECIAL_TOKEN.sub(" ", text)
    boxes, last_open = closed_boxes(text)
    if len(boxes) > MAX_BOXES:
        return Extraction(None, f"more than {MAX_BOXES} answers given")
    named_empty = bool(boxes)
    boxes = [box for box in boxes if _key(box.content) not in ("", "...")]  # "put it in \\boxed{}" is prose
    hashes = hash_lines(text, after=boxes[-1].end if boxes else None)
    if len(boxes) + len(hashes) > MAX_BOXES:
        return Extraction(None, f"more than {MAX_BOXES} answers given")
    if len({_key(span.content) for span in boxes + hashes}) > MAX_DISTINCT_ANSWERS:
        return Extraction(None, f"more than {MAX_DISTINCT_ANSWERS} different answers given")
    if last_open >= max((span.end for span in boxes + hashes), default=0):
        return Extraction(None, "the last box is not closed")
    if hashes and (not boxes or hashes[-1].start > boxes[-1].end):
        return Extraction(hashes[-1].content.strip())
    if boxes:
        group = side_by_side(text, boxes)
        return Extraction(joined(text, group), parts=tuple(box.content.strip() for box in group))
    return Extraction(None, "the box is empty" if named_empty else 'no boxed or "####" answer')


def after_thought(output: str, in_thought: bool = False) -> str | None:
    """What follows the last closed thought; all of it where there is no thought; None while a thought is open."""
    end, opened = 0, in_thought
    for _, end_tag in THOUGHT_TAGS:
        last = output.rfind(end_tag)
        if last >= 0:
            end, opened = max(end, last + len(end_tag)), False
    tail = output[end:]
    return None if opened or any(start_tag in tail for start_tag, _ in THOUGHT_TAGS) else tail


def opens_thought(prompt: str) -> bool:
    """The prompt ends inside a thought, so that the response starts in it."""
    return prompt.rstrip().endswith(tuple(start_tag for start_tag, _ in THOUGHT_TAGS))


def closed_boxes(text: str) -> tuple[list[_Span], int]:
    """The outermost closed boxes in order, and where the last unclosed one starts (-1: none)."""
    found: list[_Span] = []
    stack: list[tuple[int, int] | None] = []  # per open brace: (start of the box, start of its content), or None
    for token in BOX_TOKEN.finditer(text):
        symbol = token.group()
        if token.group("bare"):
            found.append(_Span(token.start(), token.end(), token.group("bare")))
        elif symbol == "{":
            stack.append(None)
        elif symbol == "}":
            opening = stack.pop() if stack else None
            if opening is not None:
                while found and found[-1].start > opening[0]:
                    found.pop()  # inside this box
                found.append(_Span(opening[0], token.end(), text[opening[1] : token.start()]))
        elif len(symbol) > 2:
            stack.append((token.start(), token.end()))
    return found, max((opening[0] for opening in stack if opening), default=-1)


def hash_lines(text: str, after: int | None) -> list[_Span]:
    """Answers after "####", which also makes headings: beside boxes, only a value that follows the last of them."""
    spans = []
    for match in HASH_LINE.finditer(text):
        content = match.group(1).rpartition("####")[2].strip(" \t*")
        if (
            not content
            or after is not None
            and (match.start() < after or HEADING.match(content) or not VALUE_START.match(content))
        ):
            continue
        content = ANSWER_IS.sub("", content)
        remark = REMARK.search(content)
        if remark and not (len(remark[0].split()) <= MAX_SENSE_WORDS and senses_of(remark[0]) & TURNING.keys()):
            content = content[: remark.start()] or content  # what "(below zero)" says is no remark
        spans.append(_Span(match.start(), match.end(), content))
    return spans


def side_by_side(text: str, boxes: list[_Span]) -> list[_Span]:
    """The last box and the different ones before it, with only "and", "or", commas and the like between; in order."""
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        gap = text[box.end : group[-1].start]
        if len(gap) > MAX_GAP_CHARS or not CONNECTOR.fullmatch(gap):
            break
        group.append(box)
    return list({_key(box.content): box for box in reversed(group)}.values())


def joined(text: str, boxes: list[_Span]) -> str:
    """Boxes that stand side by side as one answer, with the words between them and the letters that they are given to."""
    if len(boxes) == 1:
        content, start = boxes[0].content.strip(), boxes[0].start
        if MINUS_BEFORE.search(text, max(0, start - MAX_NAME_CHARS), start):
            return f"-({content})" if re.search("[-+]", content) else f"-{content}"
        return content
    names = [NAME_BEFORE.search(text, max(0, box.start - MAX_NAME_CHARS), box.start) for box in boxes]
    answer = ""
    for at, (box, name) in enumerate(zip(boxes, names)):
        words = set(re.findall(r"[a-z]+", text[boxes[at - 1].end : box.start].lower())) if at else set()
        answer += ", or " if words & ALTERNATIVES else ", and " if "and" in words else ", " if at else ""
        answer += f"{name[1]} = {box.content.strip()}" if name and all(names) else box.content.strip()
    return answer


def _key(content: str) -> str:
    return re.sub(r"\s|\$|\\[,!;: ]", "", content).rstrip(".")
