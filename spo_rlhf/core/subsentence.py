r"""Where a subsentence ends: at , . ; : ! ? and a line feed and their CJK forms, not in numbers and LaTeX commands.

Inside a number are the , and . of 3.14, 1,000 and .5: a mark with a digit right after it, and a digit or no word
right before it. A LaTeX command is its name with all arguments: ``\text{if x, y}``, ``\sqrt[3]{1,000}``, ``\,``, ``\right.``;
an index or exponent in braces, ``x_{i,j}``, counts as one. A blank line ends a command whose brace never closes, as it
does in TeX; the body of an environment is ordinary text.

Whether "3." is the end of a sentence or the start of 3.14 is known one token later only. There are two answers:

- ``late=False`` looks at that token: the end is at the mark itself. For ratio units, which are formed when the
  response is complete.
- ``late=True`` decides from the past alone: where the next token does not go on with a digit, the end is *after that
  token*, so "= 12." " So" closes behind " So". For a partition, whose chain gradient is exact only then (docstring of
  ``spo_rlhf.core.partition``).

Both agree everywhere else. An empty text (a token that completes no character) decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MARKS = frozenset(",.;:!?\n，。；：！？、．｡､")
_NUMBER_MARKS = frozenset(".,")
_BEFORE_LEADING_POINT = frozenset("$€£-+=(*/<>~")  # or a space, or nothing: " .5" is a number, "end.5" is not
# These commands take one delimiter, which may be a mark: \left. \right,
_DELIMITER_COMMANDS = frozenset("left right middle big Big bigl bigr bigm Bigl Bigr Bigm bigg Bigg".split())
_CLOSING = {"{": "}", "[": "]"}


def ends(text_T: Sequence[str], *, late: bool) -> list[bool]:
    """Whether a subsentence ends with each token (T,). ``text_T``: the text that each token adds; see the module."""
    ends_T = [False] * len(text_T)
    commands = _Commands()
    previous = ""
    undecided = None  # the token with a mark that the next character decides about
    for token, text in enumerate(text_T):
        for character in text:
            if undecided is not None and not character.isdecimal():
                ends_T[token if late else undecided] = True
            undecided = None
            if not commands.holds(character) and character in MARKS:
                if character in _NUMBER_MARKS and _may_be_number(previous, character):
                    undecided = token
                else:
                    ends_T[token] = True
            previous = character
    if undecided is not None and not late:
        ends_T[undecided] = True
    return ends_T


def has_words(text: str) -> bool:
    """Whether a text holds more than marks and spaces: without that there is nothing to end."""
    return any(not character.isspace() and character not in MARKS for character in text)


def _may_be_number(previous: str, mark: str) -> bool:
    if previous.isdecimal():
        return True
    return mark == "." and (previous == "" or previous.isspace() or previous in _BEFORE_LEADING_POINT)


@dataclass
class _Commands:
    """Follows LaTeX commands through a text, character by character."""

    open: list[str] = field(default_factory=list)  # what closes the open braces of arguments, innermost last
    name: str | None = None  # of the command just read: an argument may follow
    backslash: bool = False  # the character before was one that starts a command
    blank: bool = False  # only spaces since the last line feed

    def holds(self, character: str) -> bool:
        """Take the next character; True where it belongs to a command."""
        if character == "\n" and self.blank:
            self.open.clear()
        self.blank = character == "\n" or (self.blank and character.isspace())
        if self.backslash:
            self.backslash, self.name = False, character if character.isascii() and character.isalpha() else ""
            return True
        if character == "\\":
            self.backslash, self.name = True, None
            return True
        return self._argument(character)

    def _argument(self, character: str) -> bool:
        name, self.name = self.name, None
        if name and character.isascii() and character.isalpha():
            self.name = name + character
            return True
        if name and character == "*":
            self.name = ""  # \operatorname*{..}
            return True
        if name in _DELIMITER_COMMANDS:
            return True
        opens = character == "{" and (bool(self.open) or name is not None)
        opens |= character == "[" and name == "sqrt"
        if opens:
            self.open.append(_CLOSING[character])
            return True
        if self.open and character == self.open[-1]:
            self.open.pop()
            self.name = ""  # a second argument may follow
            return True
        if character in "_^":
            self.name = ""  # an index or exponent in braces may follow
        return bool(self.open)
