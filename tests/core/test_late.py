"""A regular expression or decoder of a module is made at its first use, and only once."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

MODULE = """
import re
import msgspec
from nono_trio.core.late import late_decoder, late_pattern
class Point(msgspec.Struct):
    x: int
WORD = late_pattern(r"[a-z]+", re.IGNORECASE)
AGAIN = late_pattern(r"[a-z]+", re.IGNORECASE)
HELD = (late_pattern(rb"[0-9]+"),)
POINT = late_decoder(Point)
WRONG = late_pattern("(")
def words(text): return WORD.findall(text)
def x_of(data): return POINT.decode(data).x
"""


@pytest.fixture
def module() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "module"}
    exec(MODULE, names)
    return names


def test_a_pattern_has_the_name_in_its_module_from_its_first_use_on(module: dict[str, Any]) -> None:
    assert not isinstance(module["WORD"], re.Pattern)
    assert module["words"]("One two") == ["One", "two"]
    assert module["WORD"] is re.compile(r"[a-z]+", re.IGNORECASE)
    assert not isinstance(module["AGAIN"], re.Pattern)  # another one of the same text


def test_who_has_the_object_itself_goes_on_with_it(module: dict[str, Any]) -> None:
    (held,) = module["HELD"]
    assert [held.sub(b"n", b"a12") for _ in range(2)] == [b"an", b"an"]
    assert held.pattern == rb"[0-9]+"


def test_a_decoder_has_the_name_too(module: dict[str, Any]) -> None:
    assert not isinstance(module["POINT"], msgspec.json.Decoder)
    assert module["x_of"](b'{"x": 1}') == 1
    assert isinstance(module["POINT"], msgspec.json.Decoder)


def test_a_text_that_is_no_pattern_is_refused_at_each_use(module: dict[str, Any]) -> None:
    for _ in range(2):
        with pytest.raises(re.error):
            module["WRONG"].search("x")
