"""The canonical path: one spelling for each path, and none for what servers read differently."""

from __future__ import annotations

import json
import re

import pytest
from checkout import TESTS
from endpoint_paths import spellings
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.policy.endpoint_path import (
    MAX_PATH,
    MAX_SEGMENTS,
    BadPath,
    CanonicalTarget,
    canonical_target,
)

SPELLINGS = spellings()
UNRESERVED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def canonical(target: str) -> CanonicalTarget | str:
    try:
        return canonical_target(target)
    except BadPath as fault:
        return fault.reason


def check(target: str) -> None:
    """Every text is refused with a sentence, or has one spelling, which is its own spelling."""
    found = canonical(target)
    if isinstance(found, str):
        assert re.fullmatch(r"[ -~]+", found)
        return
    assert canonical_target(found.text) == found
    assert re.fullmatch(r"/[!-~]*", found.text)
    assert len(found.path) <= MAX_PATH
    assert len(found.segments) <= MAX_SEGMENTS + 1
    assert not {".", ".."} & {*found.segments}
    assert not re.search(r"[\\#?]", found.path)
    assert not found.path.startswith("//")
    for digits in re.findall(r"%(..)", re.sub("%25", "", found.path)):
        assert digits == digits.upper()
        assert chr(int(digits, 16)) not in UNRESERVED
    assert (found.query is None) is ("?" not in target)
    assert found.query is None or found.query == target.partition("?")[2]


def test_the_table_is_as_large_as_it_should_be():
    assert len({one.path for one in SPELLINGS}) == len(SPELLINGS) >= 400


def test_each_spelling_of_the_table():
    for one in SPELLINGS:
        found = canonical(one.path)
        if one.canonical is None:
            assert found == one.refused, one.path
        else:
            assert isinstance(found, CanonicalTarget), (one.path, found)
            assert (found.text, found.hides_slash) == (one.canonical, one.hides_slash), one.path
        check(one.path)


def test_every_beginning_and_every_ending_of_the_table():
    for one in SPELLINGS:
        for at in range(min(len(one.path), 64)):
            check(one.path[:at])
            check(f"/{one.path[at:]}")


@pytest.mark.parametrize("place", ["/{}", "/a/{}", "/a{}b", "/a/.{}", "/a/..{}", "/a/{}.", "/a?{}"])
def test_every_byte_raw_encoded_and_encoded_twice(place: str):
    for code in range(256):
        byte = chr(code)
        for spelling in (byte, f"%{code:02x}", f"%{code:02X}", f"%25{code:02x}"):
            target = place.format(spelling)
            check(target)
            if place != "/a?{}" and not 0x20 < code < 0x7F and code != 0x20:
                assert isinstance(canonical(target), str), target


def test_escapes_of_two_bytes():
    for first in (0xC0, 0xC1, 0xC2, 0xC3, 0xDF, 0xE0, 0xEF, 0xF4, 0xFF):
        for second in range(256):
            check(f"/a/%{first:02x}%{second:02x}/b")


def test_bounds():
    assert canonical("/" + "a" * MAX_PATH) == f"is longer than {MAX_PATH} characters"
    assert isinstance(canonical("/" + "a/" * (MAX_SEGMENTS - 1)), CanonicalTarget)
    assert canonical("/" + "a/" * MAX_SEGMENTS) == f"has more than {MAX_SEGMENTS} segments"
    assert canonical("/%2525252525") == "has escapes within escapes, more than 3 deep"


def test_every_target_of_the_hostile_inputs():
    """Those of requests to a proxy, and their paths, as a client in a tunnel would send them."""
    cases = json.loads((TESTS / "data" / "hostile-inputs.json").read_text("utf-8"))
    targets = {case["request"].partition(" ")[2].partition(" ")[0] for case in cases}
    assert len(targets) > 80
    for target in targets:
        check(target)
        check("/" + target.partition("://")[2].partition("/")[2])


pieces = st.lists(
    st.sampled_from(
        [
            *(
                "/",
                "//",
                ".",
                "..",
                "%2e",
                "%2E",
                "%252e",
                "%2f",
                "%5c",
                "\\",
                ";",
                "%3b",
                "?",
                "#",
            ),
            *("a", "Z", "~", "%7e", "%41", "%c3%a9", "%00", "%25", "%", "%3f", "é", " ", "*", "@"),
        ]
    ),
    max_size=12,
)


@given(pieces.map("".join))
def test_what_is_made_of_such_pieces_has_one_spelling_or_none(text: str):
    check(f"/{text}")


@given(st.text())
def test_any_text_has_one_spelling_or_none(text: str):
    check(text)
    check(f"/{text}")
