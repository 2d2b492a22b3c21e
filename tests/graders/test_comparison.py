"""Where the comparison of two answers ends: how many items, forms and levels, how long, and what it says then."""

import pytest

from spo_rlhf.graders.compare import MAX_FORMS, MAX_ITEMS, MAX_SHOWN_CHARS, equal_answers, normalize_limited
from spo_rlhf.graders.grade import grade_here
from spo_rlhf.graders.guards import Problem
from spo_rlhf.graders.scalars import MAX_SIDES, Scalars
from spo_rlhf.graders.structure import MAX_DEPTH, MAX_NAME_CHARS, closes_at_end, in_order_of_names, parse, split_top
from spo_rlhf.graders.verdict import Question


def items(count: int, first: int = 1) -> list[str]:
    return [str(number) for number in range(first, first + count)]


@pytest.mark.parametrize("brackets", [("", ""), (r"\{", r"\}"), ("(", ")")])
def test_how_many_items_are_compared(brackets) -> None:
    for count, same in ((MAX_ITEMS, True), (MAX_ITEMS + 1, False)):
        gold = ", ".join(items(count)).join(brackets)
        answer = ", ".join([*items(count - 1), rf"\frac{{{2 * count}}}{{2}}"]).join(brackets)
        assert equal_answers(gold, answer)[0] is same


def test_one_value_in_several_forms() -> None:
    forms = [r"\frac{3}{4}", "0.75", r"\frac{6}{8}", r"75\%", r"\frac{9}{12}"]
    for count in range(1, len(forms) + 1):
        assert equal_answers("3/4", ", ".join(forms[:count]))[0] is (count <= MAX_FORMS)
    assert not equal_answers("3/4", "0.75, 0.75")[0], "twice the same is a list"
    assert not equal_answers("3/4", "0.75, 0.8")[0]
    assert not equal_answers("3/4, 1", "0.75")[0]


def test_what_is_shown_of_an_answer_is_limited() -> None:
    shown = grade_here(Question("5"), rf"\boxed{{{'x' * 600}}}").extracted
    assert shown == "x" * MAX_SHOWN_CHARS and MAX_SHOWN_CHARS == 500


def test_what_is_far_too_long_is_not_normalised() -> None:
    for length, normal in ((2000, True), (2001, False)):
        assert (normalize_limited("$5$".ljust(length)) == "5") is normal


def test_angles_in_radians_are_compared_as_such_where_the_problem_speaks_of_degrees() -> None:
    in_degrees = Scalars(Problem("What is the angle in degrees?"))
    assert in_degrees.same(r"\frac{\pi}{3}", r"\frac{2\pi}{6}") and in_degrees.same("60", r"\frac{\pi}{3}")
    assert not in_degrees.same(r"60\text{ cm}", r"\frac{\pi}{3}")


def test_what_is_said_of_a_verdict() -> None:
    assert equal_answers("5", "5") == (True, "same text") and equal_answers("5", "05") == (True, "equal")
    assert equal_answers("5", "6") == equal_answers("x", "y") == (False, "different")
    assert equal_answers("5", "2+3", "What is 2+3?") == (False, "copied from the problem")


def nested(depth: int) -> str:
    return "(1," * depth + "2" + ")" * depth


def test_what_cannot_be_read_says_so() -> None:
    assert parse(nested(MAX_DEPTH)).kind == "bracket"
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(nested(MAX_DEPTH + 1))
    equal, why = equal_answers("5", nested(MAX_DEPTH + 1))
    assert not equal and why == "cannot be read: nested too deeply"


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("5", 0),
        ("(5)", 1),
        ("1, 2", 1),
        ("(1, 2)", 1),
        (r"\{1\}", 1),
        ("[[1], [2]]", 1),
        (r"\begin{pmatrix}1&2\end{pmatrix}", 1),
        ("1 < x < 2", 1),
        ("x > 2", 1),
        (r"x \neq 3", 1),
        (r"2 \pm 3", 1),
        (r"(0,1) \cup (2,3)", 2),
        ("S = (0, 1)", 2),
        (r"\mathbb{R}", 2),
        (r"\{x \mid x > 2\}", 1),
    ],
)
def test_each_level_of_nesting_counts_once(text, levels) -> None:
    assert parse(text, MAX_DEPTH - levels)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(text, MAX_DEPTH - levels + 1)


def test_the_limits_of_a_comparison() -> None:
    assert (MAX_ITEMS, MAX_FORMS, MAX_SIDES, MAX_DEPTH, MAX_NAME_CHARS) == (60, 3, 4, 12, 60)


def test_coordinates_are_put_in_the_order_of_their_names_where_all_have_one() -> None:
    for text, order in (("y = 1, x = 2", ["2", "1"]), ("y = 1, 2", ["1", "2"]), ("y = 1, y = 2", ["1", "2"])):
        assert [item.text for item in in_order_of_names(parse(text).items)] == order


@pytest.mark.parametrize("gold, answer", [("5", ""), ("", ""), ("", "5")])
def test_nothing_is_no_answer(gold, answer) -> None:
    equal, why = equal_answers(gold, answer)
    assert not equal and (why == "empty answer" or answer)


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        ("C", "(C)", True),
        ("C", "c", True),
        ("C", "(D)", False),
        ("C", "option C", True),
        ("C", "(C) 5", True),
        ("C", "(D) 5", False),
        ("5", "(C) 5", True),
        ("5", "(C) 6", False),
        ("5", "(C) 5 and (D) 6", False),
        ("C", "Choice (C).", True),
        ("K", "K", True),
        ("K", "(K) 5", False),
    ],
)
def test_letters_of_a_choice(gold, answer, same) -> None:
    assert equal_answers(gold, answer)[0] is same


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\begin{pmatrix}1\\2\\3\end{pmatrix}", "(1, 2, 3)", True),
        (r"\begin{pmatrix}1&2&3\end{pmatrix}", "(1, 2, 3)", True),
        ("(1, 2, 3)", r"\begin{pmatrix}1\\2\\3\end{pmatrix}", True),
        ("(1, 2, 3)", r"\begin{pmatrix}1\\3\\2\end{pmatrix}", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "[1, 2]", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "(1, 2, 3, 4)", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", False),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2&3&4\end{pmatrix}", False),
        ("x = 1, y = 2", "1, 2", True),
        ("x = 1, y = 2", "2, 1", False),
        ("x = 1, y = 2", "y = 2, x = 1", True),
        ("x = 1, y = 2", "x = 2, y = 1", False),
        ("x = 1, x = 2", "2, 1", True),
        (r"5\text{ boys}, 3\text{ girls}", "5, 3", True),
        (r"5\text{ boys}, 3\text{ girls}", "3, 5", False),
        (r"5\text{ boys}, 3\text{ girls}", r"3\text{ girls}, 5\text{ boys}", True),
        (r"5\text{ boys}, 3\text{ boys}", "3, 5", True),
        (r"90^\circ, 45", r"45, 90^\circ", True),
        ("(a,b)=(3,4)", "(b,a)=(3,4)", False),
        ("(a,b)=(3,4)", "(b,a)=(4,3)", True),
        ("(b,a)=(4,3)", "a=3, b=4", True),
        ("a=3, b=4", "(b,a)=(3,4)", False),
        ("(x,y)=(1,2)", "(a,b)=(1,2)", False),
        ("(a,b,c)=(1,2,3)", "(c,b,a)=(1,2,3)", False),
        ("(b,a)=(4,3)", "(4,3)", False),
        ("(b,a)=(3,4)", "(3,4)", False),
        ("(a,b)=(4,3)", "(4,3)", True),
        ("(x,y)=(1,2),(3,4)", "(3,4), (1,2)", True),
        ("y=x", "x=y", True),
        ("y=x", "x=-y", False),
        ("True", "yes", True),
        ("True", "no", False),
        ("A and C", "A or C", False),
        ("A and C", "C, A", True),
        ("A, C", "A or C", False),
        ("red and blue", "red or blue", False),
        (r"\text{Alice, Bob}", r"\text{Alice or Bob}", False),
        (r"\text{Alice or Bob}", r"\text{Bob or Alice}", True),
        ("A and B or C", "A or B or C", False),
        ("A and B or C", "C or B and A", True),
        ("A and B or C", "A or B and C", False),
        ("either A or B", "B or A", True),
        ("x = 1 or x = 2", "x = 1 and x = 2", False),
        ("x = 1, x = 2", "x = 1 and x = 2", True),
        ("x = 1 or x = 2", "1 and 2", True),
        ("x = 1 and y = 2", "x = 1 or y = 2", False),
        ("x<1 or x>2", "x<1 and x>2", False),
        ("x<1 or x>2", "x>2 or x<1", True),
        ("x<1 or x>2", r"(-\infty,1)\cup(2,\infty)", True),
        ("x<1 and x>2", r"(-\infty,1)\cup(2,\infty)", False),
        ("(1, 2)", "1, 2", True),
        ("(1, 2)", "2, 1", False),
        ("[1, 2]", "1, 2", False),
        (r"\{1, 2\}", "2, 1", True),
        (r"\{1, 2\}", "1, 2, 2", False),
        (r"(0,1) \cup (2,3)", r"(2,3) \cup (0,1)", True),
        (r"(0,1) \cup (2,3)", "(0,1), (2,3)", True),
        (r"(0,1) \cup (2,3)", r"(0,1) \cup (2,3]", False),
        (r"(0,1) \cup (2,3)", "0, 1", False),
        (r"(0,1) \cup (2,3)", "A(0,1), B(2,3)", False),
        (r"\begin{pmatrix}\end{pmatrix}", "(1, 2)", False),
        ("f(x) = 2x", "y = 2x", True),
        ("f(x) = 2x", "g(x) = 2x", False),
        ("y = 2x", "2x - y = 0", True),
        ("y = 2x", "2x - y = 1", False),
        ("2x", "2x - y = 0", False),
    ],
)
def test_structures_that_may_stand_for_each_other(gold, answer, same) -> None:
    assert equal_answers(gold, answer)[0] is same


def test_how_long_a_chain_of_equal_sides_may_be() -> None:
    for count, same in ((MAX_SIDES, True), (MAX_SIDES + 1, False)):
        assert Scalars(Problem(None)).same("5", "=".join(["5"] * count)) is same
    for answer, same in (("2+3=5", True), ("m+n=5", True), ("4=5", False), ("5=4", False), ("=5", False)):
        assert Scalars(Problem(None)).same("5", answer) is same, answer


def test_how_long_a_name_may_be() -> None:
    for length in (MAX_NAME_CHARS, MAX_NAME_CHARS + 1):
        node = parse(f"{'n' * length} = 5")
        assert (node.name is None) == (length > MAX_NAME_CHARS)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1, 2", ["1", "2"]),
        ("(1, 2), 3", ["(1, 2)", "3"]),
        (r"\{1, 2\}, 3", [r"\{1, 2\}", "3"]),
        ("[1, 2), 3", ["[1, 2)", "3"]),
        (r"\frac{1,2}{3}, 4", [r"\frac{1,2}{3}", "4"]),
        (r"\begin{pmatrix}1, 2\end{pmatrix}, 3", [r"\begin{pmatrix}1, 2\end{pmatrix}", "3"]),
        (r"1\, 2, 3", [r"1\, 2", "3"]),
        ("1,", ["1", ""]),
        ("", [""]),
        ("1\\", ["1\\"]),
    ],
)
def test_separators_count_outside_brackets(text, parts) -> None:
    assert split_top(text, ",;") == parts


@pytest.mark.parametrize(
    ("text", "closes"),
    [("(1)", True), ("(1)(2)", False), ("((1)(2))", True), ("((1)", False), (r"(\{1\})", True), ("(1]", True)],
)
def test_a_bracket_is_closed_at_the_end(text, closes) -> None:
    assert closes_at_end(text, 1, 1) is closes


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("x < 3", ("()", r"-\infty", "3")),
        (r"x \leq 3", ("(]", r"-\infty", "3")),
        ("3 < x", ("()", "3", r"\infty")),
        (r"3 \geq x", ("(]", r"-\infty", "3")),
        (r"x \geq 3", ("[)", "3", r"\infty")),
        (r"1 < x \leq 2", ("(]", "1", "2")),
        (r"2 \geq x > 1", ("(]", "1", "2")),
        (r"1 \leq x < 2", ("[)", "1", "2")),
        ("1 < x > 2", None),
        ("1 < 2 < 3", None),
        ("1 < 2", None),
        ("1 < x < 2 < 3", None),
        ("x <", None),
        ("]1, 2[", ("()", "1", "2")),
        ("[1, 2[", ("[)", "1", "2")),
        ("]1, 2]", ("(]", "1", "2")),
        ("(1, 2[", ("()", "1", "2")),
        ("]1[", None),
    ],
)
def test_inequalities_are_intervals(text, interval) -> None:
    node = parse(text)
    found = (node.text, *(item.text for item in node.items)) if node.kind == "bracket" else None
    assert found == interval


def test_parentheses_around_one_value_say_nothing() -> None:
    assert parse("(5)") == parse("]5[") == parse("5") != parse("[5]")
    assert parse("()").text == "()" and parse("][").text == "]["


@pytest.mark.parametrize(
    ("text", "kind", "texts"),
    [
        (r"2 \pm 3", "list", ["2 +3", "2 -3"]),
        (r"x = \pm 3", "list", ["3", "-3"]),
        (r"\pm 1 \pm 2", "expr", []),
        (r"1, 2 \pm 3", "list", ["1", "2 +3", "2 -3"]),
        ("north", "text", []),
        ("yes", "text", []),
        ("Evelyn", "text", []),
        (r"\text{North}", "text", []),
        ("abc", "expr", []),
        ("5 = x", "expr", []),
        ("]1[", "expr", []),
    ],
)
def test_what_else_an_answer_may_be(text, kind, texts) -> None:
    node = parse(text)
    assert node.kind == kind and [item.text.replace("2+", "2 +").replace("2-", "2 -") for item in node.items] == texts


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\emptyset", r"\{\}", True),
        (r"\emptyset", r"\{0\}", False),
        (r"5\text{ p.m.}", "5", True),
        ("5", r"5\text{ p.m.}", True),
        (r"5:01\text{ p.m.}", "5", False),
        (r"5\text{ p.m.}", "6", False),
        ("5:00", "5", False),
        ("2.5k", "2500", False),
        ("2500", "2.5k", True),
        ("2500", r"\$2.5K", True),
        ("2.5", "2.5k", False),
        ("52_8", "52", True),
        ("52", "52_8", True),
        ("52_8", "52_9", False),
        ("52_8", "53_8", False),
        ("52", "52_5", False),
        ("C", "C_2", False),
        ("A", "A_n", False),
        ("C_{16}", "C", True),
        ("11_2", r"11\text{ base two}", True),
        (r"180^\circ", r"\pi", True),
        (r"\pi", r"180^\circ", False),
        (r"180^\circ", r"2\pi", False),
        ("180", r"\pi", False),
        (r"5^\circ C", r"5^\circ F", False),
        ("abcd", "dcba", False),
        (r"5^\circ C", r"5\text{ degrees Celsius}", True),
        ("5", "She has 5 of them in the end on the very last day", True),
        (r"5\text{ apples}", "She has 5 of them in the end on the very last day", False),
    ],
)
def test_single_values_of_each_kind(gold, answer, same) -> None:
    assert Scalars(Problem(None)).same(gold, answer) is same
