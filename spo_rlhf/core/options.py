"""Options, each declared once: as a field of the thing it configures.

A part (a method, a partition, an estimator, the configuration itself) is a frozen dataclass. A field made by `option`
is an option of the command, ``--spo.FLAG``: name, default, bounds and meaning in one place. A field made by `choice`
names a part of a table (`core.registry`), whose own options then belong to it; a field made by `shared` takes the value
of an option that is declared elsewhere. Parser, contradictions, presets, ``--help`` and the table in docs/options.md
all read `declared`:

    @dataclass(frozen=True, kw_only=True)
    class Fixed:
        segment_length: int = option(parse=int, required=True, at_least=1, metavar="L", help="tokens per segment")

        def __post_init__(self) -> None:
            check(self)
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from spo_rlhf.core.registry import Registry

LONGEST_WAIT = 1_000_000  # seconds; clocks and pipes count none much longer
HOTTEST = 100  # temperature: all tokens are as good as equally probable there
COLDEST = 0.01  # temperature: vLLM samples with this one instead of a lower one above 0
Path = tuple[tuple[str, str], ...]  # ((choice, name), ..) from the configuration down to the part that has the option


class OptionError(ValueError):
    """A value that an option cannot have: `flag`, `value`, and what is wrong with it in `reason`."""

    def __init__(self, name: str, flag: str, value: Any, reason: str):
        super().__init__(f"{name} is {value!r}: {reason}")
        self.flag, self.value, self.reason = flag, value, reason


@dataclass(frozen=True)
class Bounds:
    """What a number has to be; None where there is no bound."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    or_zero: bool = False  # which the other bounds leave out

    def __str__(self) -> str:
        parts = [
            f"{word} {shown(bound)}"
            for word, bound in (
                ("at least", self.at_least),
                ("above", self.above),
                ("at most", self.at_most),
                ("below", self.below),
            )
            if bound is not None
        ]
        return "0, or " * self.or_zero + " and ".join(parts)

    def holds(self, number: float) -> bool:
        return (self.or_zero and number == 0) or (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )


#: A temperature with which an engine samples; 0 stands for the likeliest token.
TEMPERATURE = Bounds(at_least=COLDEST, at_most=HOTTEST, or_zero=True)


def shown(number: float) -> str:
    """A number as messages have it: a whole one with all its digits."""
    return str(number) if isinstance(number, int) else f"{number:g}"


@dataclass(frozen=True)
class Option:
    """One option. `default` None stands for one that depends on other options, as `default_text` says."""

    flag: str  # the command says --spo.FLAG
    field: str  # the dataclass says this
    help: str
    default: Any = None
    default_text: str | Callable[[], str] | None = None  # a function where it depends on what is in a table
    parse: Callable[[str], Any] = str
    bounds: Bounds = Bounds()
    required: bool = False  # a part that has it cannot do without
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    parts: Registry[Any] | None = None  # of a choice
    repeated: bool = False  # may be given several times
    owners: tuple[Path, ...] = ((),)  # where it belongs; an empty path: everywhere

    @property
    def is_switch(self) -> bool:
        """--spo.FLAG or --no-spo.FLAG."""
        return self.parse is bool

    def names(self) -> tuple[str, ...] | None:
        """What may be chosen; None where anything may be given."""
        return tuple(self.parts) if self.parts is not None else self.choices

    def meaning(self) -> str:
        """The help, with what each part says of itself where one is chosen: the first paragraph of its docstring."""
        told = [(name, first_paragraph(part)) for name, part in (self.parts or {}).items()]
        return "; ".join([self.help, *(f"{name}: {decapitalized(text)}" for name, text in told if text)])

    def where(self) -> str:
        """Whose option it is, as the command says it; empty where it is everybody's."""
        # The part that has it; whose part that is, its own choice says.
        parts: dict[str, list[str]] = {}
        for flag, name in dict.fromkeys(path[-1] for path in self.owners if path):
            parts.setdefault(flag, []).append(name)
        return " or ".join(f"--spo.{flag} {' or '.join(names)}" for flag, names in parts.items())


def first_paragraph(part: Any) -> str:
    """Of a part's own docstring, on one line without its full stop; empty where it has none."""
    text = inspect.cleandoc(part.__doc__ or "").partition("\n\n")[0]
    generated = isinstance(part, type) and text.startswith(f"{part.__name__}(")  # dataclass() writes one of its own
    return "" if generated else " ".join(text.split()).rstrip(".")


def decapitalized(text: str) -> str:
    """The text for the middle of a sentence; an abbreviation stays as it is."""
    return text if text[1:2].isupper() else text[0].lower() + text[1:]


def option(
    default: Any = None,
    *,
    help: str,
    flag: str | None = None,
    default_text: str | Callable[[], str] | None = None,
    parse: Callable[[str], Any] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    required: bool = False,
    metavar: str | None = None,
    choices: Iterable[str] | None = None,
    repeated: bool = False,
) -> Any:
    """A field that is an option. Without `flag` it has the field's name, without `parse` the type of its default."""
    declaration = {
        "flag": flag,
        "help": help,
        "default": default,
        "default_text": default_text,
        "parse": parse or type(default),
        "bounds": Bounds(at_least, above, at_most),
        "required": required,
        "metavar": metavar,
        "choices": None if choices is None else tuple(choices),
        "repeated": repeated,
    }
    return field(metadata={"option": declaration}, **({} if required else {"default": default}))


def choice(flag: str, parts: Registry[Any], default: str, *, help: str) -> Any:
    """A field that holds a part of a table, chosen by name: an instance where the part is a dataclass, else the part."""
    declaration = {"flag": flag, "help": help, "default": default, "parts": parts}

    def make() -> Any:
        part = parts.choose(default)
        return part() if isinstance(part, type) else part

    return field(default_factory=make, metadata={"option": declaration})


def shared(flag: str, default: Any) -> Any:
    """A field with the value of an option that another part declares."""
    return field(default=default, metadata={"shared": flag})


def own(cls: type) -> list[Option]:
    """The options that the fields of a part declare, those of its choices' parts left out."""
    found = []
    for one in dataclasses.fields(cls):
        if "option" in one.metadata:
            declaration = dict(one.metadata["option"])
            declaration["flag"] = declaration["flag"] or one.name
            found.append(Option(field=one.name, **declaration))
    return found


def declared(cls: type) -> list[Option]:
    """All options below a part, each flag once, with its owners.

    Raises ValueError for a flag declared in two ways, and for a part whose class is no dataclass.
    """
    found: dict[str, Option] = {}
    for path, one in _walk(cls, ()):
        known = found.get(one.flag)
        if known is None:
            found[one.flag] = dataclasses.replace(one, owners=(path,))
        elif dataclasses.replace(known, owners=((),)) != one:
            raise ValueError(f"--spo.{one.flag} is declared twice and differently: give one of the two another flag")
        else:
            found[one.flag] = dataclasses.replace(known, owners=(*known.owners, path))
    return list(found.values())


def _walk(cls: type, path: Path) -> Iterator[tuple[Path, Option]]:
    for one in own(cls):
        yield path, one
        for name, part in (one.parts or {}).items():
            if isinstance(part, type) and not _is_own_dataclass(part):
                raise ValueError(f"{one.flag} {name}: {part.__name__} is no dataclass; write @dataclass(..) above it")
            if missing := sorted(getattr(part, "__abstractmethods__", ())):
                raise ValueError(f"{one.flag} {name}: {part.__name__} lacks {', '.join(missing)}; write it")
            if dataclasses.is_dataclass(part):
                yield from _walk(part if isinstance(part, type) else type(part), (*path, (one.flag, name)))


def _is_own_dataclass(part: type) -> bool:
    """A dataclass, and not only by inheritance while it has fields of its own: those would be no options."""
    return dataclasses.is_dataclass(part) and not any(isinstance(one, dataclasses.Field) for one in vars(part).values())


def build(cls: type, values: Mapping[str, Any]) -> Any:
    """A part from the values of its options, by flag; what is missing or None has its default.

    Raises OptionError for an option that is required and not given, or out of its bounds, ValueError for a part that
    refuses its values together.
    """
    arguments = {}
    for one in dataclasses.fields(cls):
        if flag := one.metadata.get("shared"):
            if values.get(flag) is not None:
                arguments[one.name] = values[flag]
    # Plain options first: what is wrong with one is to be told in its own name, not in that of a part that shares it.
    for one in sorted(own(cls), key=lambda one: one.parts is not None):
        value = values.get(one.flag)
        if one.parts is not None:
            part = one.parts.choose(one.default if value is None else value)
            arguments[one.field] = build(part, values) if isinstance(part, type) else part
        elif value is not None:
            _check_value(one, value)
            arguments[one.field] = value
        elif one.required:
            raise OptionError(one.field, one.flag, None, "it is needed and has no default")
    return cls(**arguments)


def values(part: Any) -> dict[str, Any]:
    """The value of every option of a built part and of the parts below it, by flag: what `build` would take."""
    found = {}
    for one in own(type(part)):
        value = getattr(part, one.field)
        if one.parts is None:
            found[one.flag] = value
            continue
        found[one.flag] = name_of(one.parts, value)
        if dataclasses.is_dataclass(value):
            found |= values(value)
    return found


def name_of(parts: Registry[Any], part: Any) -> str:
    """The name under which a part, or the class of it, stands in the table. Raises ValueError where it does not."""
    for name, entry in parts.items():
        if entry is part or entry is type(part):
            return name
    raise ValueError(f"{part!r} is no {parts.noun} of the table")


def check(part: Any) -> None:
    """Raise OptionError unless the options of a part lie within their bounds. For `__post_init__`."""
    for one in own(type(part)):
        value = getattr(part, one.field)
        if value is not None and one.parts is None:
            _check_value(one, value)


def _check_value(one: Option, value: Any) -> None:
    if one.choices is not None and value not in one.choices:
        raise OptionError(one.field, one.flag, value, f"choose one of {', '.join(one.choices)}")
    if one.parse in (int, float):
        kinds = (int,) if one.parse is int else (int, float)
        whole = "a whole number" if one.parse is int else "a number"
        if isinstance(value, bool) or not isinstance(value, kinds) or not is_finite(value):
            raise OptionError(one.field, one.flag, value, f"give {whole} {one.bounds}".rstrip())
        if not one.bounds.holds(value):
            raise OptionError(one.field, one.flag, value, f"must be {one.bounds}")


def is_finite(number: float) -> bool:
    """Whether it is; a whole number of any length is."""
    return isinstance(number, int) or math.isfinite(number)


def whole_numbers(text: str) -> tuple[int, ...]:
    """Parser of an option such as 6,6,6. Raises ValueError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no list of whole numbers such as 6,6,6") from None


def numbers(text: str) -> tuple[float, ...]:
    """Parser of an option such as 0.2,0.5. Raises ValueError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is no list of numbers such as 0.2,0.5") from None
