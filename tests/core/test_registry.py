"""Tables of named parts."""

import pytest

from spo_rlhf.core.registry import Registry


def test_parts_join_by_name_once() -> None:
    table = Registry("colour", {"red": 1})
    assert table.register("blue")(2) == 2, "a decorator leaves what it decorates"
    assert table.choose("blue") == 2 and list(table) == ["red", "blue"]
    with pytest.raises(ValueError, match="there is a colour 'red' already"):
        table.register("red")
    with pytest.raises(ValueError, match="unknown colour 'green': choose one of red, blue"):
        table.choose("green")
