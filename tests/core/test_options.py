"""Options are declared once, as fields; what is built from them, what is refused, and what a part may not do."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

import pytest

from spo_rlhf.core.options import (
    Option,
    OptionError,
    build,
    check,
    choice,
    decapitalized,
    declared,
    first_paragraph,
    name_of,
    option,
    shared,
    values,
    whole_numbers,
)
from spo_rlhf.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Small:
    size: int = option(3, flag="small_size", at_least=1, help="of it")
    limit: float = shared("limit", 0.5)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Large:
    size: int = option(parse=int, flag="large_size", required=True, at_least=10, help="of it")
    sizes: tuple[int, ...] = option((1, 2), parse=whole_numbers, help="of its parts")


def double(number: float) -> float:
    return 2 * number


SHAPES = Registry("shape", {"small": Small, "large": Large})
SCALES = Registry("scale", {"double": double})


@dataclass(frozen=True, kw_only=True)
class Whole:
    shape: Small | Large = choice("shape", SHAPES, "small", help="which")
    scale: object = choice("scale", SCALES, "double", help="a function")
    limit: float = option(0.5, above=0, at_most=1, help="shared with the small shape")
    level: str = option("low", choices=("low", "high"), help="how")
    loud: bool = option(False, help="a switch")

    def __post_init__(self) -> None:
        check(self)


def test_an_option_knows_its_flag_its_field_and_its_owner() -> None:
    found = {one.flag: one for one in declared(Whole)}
    assert list(found) == ["shape", "small_size", "large_size", "sizes", "scale", "limit", "level", "loud"]
    assert found["small_size"].field == "size" and found["small_size"].where() == "--spo.shape small"
    assert found["limit"].where() == "" and found["loud"].is_switch and found["shape"].names() == ("small", "large")
    assert str(found["limit"].bounds) == "above 0 and at most 1"


def test_what_is_built_gives_back_the_values_it_was_built_from() -> None:
    given = {
        "shape": "large",
        "large_size": 12,
        "sizes": (4, 5),
        "scale": "double",
        "limit": 0.25,
        "level": "high",
        "loud": True,
    }
    built = build(Whole, given)
    assert built.shape == Large(size=12, sizes=(4, 5)) and built.scale is double
    assert values(built) == given and build(Whole, values(built)) == built


def test_defaults_stand_where_nothing_is_given_and_shared_values_arrive() -> None:
    assert build(Whole, {"limit": None}) == Whole()
    assert build(Whole, {"limit": 0.125}).shape.limit == 0.125
    assert build(Whole, {"large_size": 1}).shape == Small(), "an option of a part that is not chosen does not matter"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"shape": "large"}, "size is None: it is needed"),
        ({"shape": "large", "large_size": 9}, "size is 9: must be at least 10"),
        ({"small_size": 0}, "size is 0: must be at least 1"),
        ({"small_size": 2.0}, "size is 2.0: give a whole number at least 1"),
        ({"small_size": True}, "size is True"),
        ({"limit": 0}, "limit is 0: must be above 0 and at most 1"),
        ({"limit": float("nan")}, "limit is nan"),
        ({"level": "middle"}, "level is 'middle': choose one of low, high"),
        ({"shape": "round"}, "unknown shape 'round': choose one of small, large"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given, says) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as refusal:
        build(Whole, given)
    assert "\n" not in str(refusal.value)


def test_one_flag_declared_in_two_ways_is_refused_and_in_one_way_has_two_owners() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Same:
        size: int = option(3, flag="small_size", at_least=1, help="of it")

    @dataclass(frozen=True, kw_only=True)
    class Other:
        size: int = option(4, flag="small_size", at_least=1, help="of it")

    SHAPES.register("same")(Same)
    try:
        [found] = [one for one in declared(Whole) if one.flag == "small_size"]
        assert found.where() == "--spo.shape small or same"
        SHAPES["same"] = Other
        with pytest.raises(ValueError, match="--spo.small_size is declared twice and differently"):
            declared(Whole)
    finally:
        del SHAPES["same"]


@pytest.mark.parametrize("base", [object, Small])
def test_a_part_whose_fields_would_be_no_options_is_refused(base) -> None:
    class Undecorated(base):
        length: int = option(3, help="of it")

    SHAPES.register("undecorated")(Undecorated)
    try:
        with pytest.raises(ValueError, match="shape undecorated: Undecorated is no dataclass"):
            declared(Whole)
    finally:
        del SHAPES["undecorated"]


def test_numbers_are_finite() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(OptionError, match="give a number"):
            build(Whole, {"limit": value})


def test_errors_carry_flag_and_value_for_the_command_line() -> None:
    with pytest.raises(OptionError) as refusal:
        build(Whole, {"small_size": 0})
    assert (refusal.value.flag, refusal.value.value, refusal.value.reason) == ("small_size", 0, "must be at least 1")


def test_lists_of_whole_numbers_are_parsed() -> None:
    assert whole_numbers("6,6,2") == (6, 6, 2)
    with pytest.raises(ValueError, match="'6,x' is no list of whole numbers"):
        whole_numbers("6,x")
    assert Option(flag="a", field="a", help="").names() is None


def test_a_part_that_leaves_out_what_it_is_for_is_refused_by_name() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Shape(ABC):
        @abstractmethod
        def area(self) -> float: ...

    @dataclass(frozen=True, kw_only=True)
    class Half(Shape):
        length: int = option(3, help="of it")

    SHAPES.register("half")(Half)
    try:
        with pytest.raises(ValueError, match="shape half: Half lacks area; write it"):
            declared(Whole)
    finally:
        del SHAPES["half"]


def test_a_bound_itself_is_within_or_without_as_it_says() -> None:
    assert build(Whole, {"limit": 1}).limit == 1 and build(Whole, {"small_size": 1}).shape.size == 1


def test_help_says_what_each_part_says_of_itself() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Told:
        """A shape that
        is told of.

        And more.
        """

    shapes = Registry("shape", {"told": Told, "small": Small, "double": double})
    assert Option(flag="a", field="a", help="which", parts=shapes).meaning() == "which; told: a shape that is told of"
    assert Option(flag="a", field="a", help="which").meaning() == "which"


def test_the_first_paragraph_is_the_authors_own() -> None:
    assert first_paragraph(Small) == "", "what dataclass() writes is nobody's word"
    assert first_paragraph(double) == ""

    def small_() -> None:
        """small_( is how it begins."""

    assert first_paragraph(small_) == "small_( is how it begins"
    assert first_paragraph(Registry).startswith("Parts by name.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A boundary", "a boundary"), ("SPO", "SPO"), ("X", "x"), ("no", "no"), ("AbC", "abC"), ("KLs", "KLs")],
)
def test_an_abbreviation_stays_as_it_is(text, expected) -> None:
    assert decapitalized(text) == expected


def test_an_option_is_optional_and_given_once_unless_it_says_otherwise() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain:
        number: int = option(3, help="of it")
        several: tuple[str, ...] = option((), parse=str, repeated=True, help="of them")
        maybe: int | None = option(parse=int, at_least=1, help="of it")

        def __post_init__(self) -> None:
            check(self)

    number, several, maybe = declared(Plain)
    assert (number.required, number.repeated, number.parse, number.default) == (False, False, int, 3)
    assert several.repeated and maybe.parse is int and Plain().maybe is None and Plain().number == 3
    bare = Option(flag="a", field="a", help="")
    assert (bare.required, bare.repeated, bare.is_switch) == (False, False, False)
    with pytest.raises(OptionError, match="maybe is 0"):
        Plain(maybe=0)


def test_an_option_that_is_needed_has_no_default_in_the_part_either() -> None:
    with pytest.raises(TypeError, match="size"):
        Large()


def test_what_is_wrong_with_an_option_is_told_in_its_own_name_not_by_a_part_that_shares_it() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Strict:
        cap: float = shared("limit", 0.5)

        def __post_init__(self) -> None:
            if not 0 < self.cap <= 1:
                raise ValueError("told by the part")

    SHAPES.register("strict")(Strict)
    try:
        with pytest.raises(ValueError, match="^limit is 7: must be"):
            build(Whole, {"shape": "strict", "limit": 7})
    finally:
        del SHAPES["strict"]


def test_a_part_that_stands_in_no_table_has_no_name() -> None:
    assert (name_of(SHAPES, Small()), name_of(SHAPES, Large), name_of(SCALES, double)) == ("small", "large", "double")
    with pytest.raises(ValueError, match="3 is no shape of the table"):
        name_of(SHAPES, 3)
