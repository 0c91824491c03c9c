"""A stand-in is found in each usual encoding, in whole texts and however a stream is cut."""

from __future__ import annotations

import random
from base64 import b32encode, b64encode, urlsafe_b64encode
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.credentials.search import MAX_KEPT, StandInSearch
from nono_trio.core.credentials.shape import stand_in_like

STAND_INS = tuple(
    stand_in_like(secret, random.Random(number).randrange)
    for number, secret in enumerate(
        (
            b"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",
            b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            b"sk-ant-api03-" + b"aB3-" * 23 + b"xAA",
            b"6768" * 10,
            b"a%62c\\d/e%6566%25f0aA1bB2cC3",
            b"hunter2 with spaces",
        )
    )
)
SEARCH = StandInSearch(STAND_INS)


def json_escaped(one: int, backslashes: int = 1) -> bytes:
    return b"\\" * backslashes + b"u00%02x" % one


def percent(one: int, levels: int = 1) -> bytes:
    return b"%" + b"25" * (levels - 1) + b"%02X" % one


SPELLINGS = {
    "raw": lambda text: text,
    "quoted": lambda text: quote_from_bytes(text, safe="").encode(),
    "percent": lambda text: b"".join(map(percent, text)),
    "percent lower": lambda text: b"".join(b"%%%02x" % one for one in text),
    "percent twice": lambda text: b"".join(percent(one, 2) for one in text),
    "percent thrice": lambda text: b"".join(percent(one, 3) for one in text),
    "percent of some": lambda text: b"".join(
        percent(one) if one % 3 else bytes([one]) for one in text
    ),
    "json": lambda text: b"".join(map(json_escaped, text)),
    "json twice": lambda text: b"".join(json_escaped(one, 2) for one in text),
    "json of json of json": lambda text: b"".join(json_escaped(one, 4) for one in text),
    "json of percent": lambda text: b"".join(
        b"".join(map(json_escaped, b"%")) + b"%02x" % one if one % 2 else json_escaped(one)
        for one in text
    ),
    "percent in json": lambda text: b"".join(
        b"%" + json_escaped(digits[0]) + digits[1:]
        for digits in (b"%02x" % one for one in text)
    ),
    "hex": lambda text: text.hex().encode(),
    "hex upper": lambda text: text.hex().upper().encode(),
    "base64": b64encode,
    "base64url": urlsafe_b64encode,
    "basic": lambda text: b64encode(b"user:" + text),
    "basic, other side": lambda text: b64encode(text + b":x"),
    "base64 after one": lambda text: b64encode(b"a" + text + b"b"),
    "base64url after two": lambda text: urlsafe_b64encode(b"ab" + text + b"bc"),
    "base64 quoted": lambda text: quote_from_bytes(b64encode(text), safe="").encode(),
    "base64 in json": lambda text: b64encode(text).replace(b"/", b"\\/"),
    "slashes in json": lambda text: text.replace(b"/", b"\\/"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("number", range(len(STAND_INS)))
def test_a_stand_in_is_found_in_each_encoding(spelling, number):
    spelled = SPELLINGS[spelling](STAND_INS[number])
    for data in (spelled, b'{"a": "' + spelled + b'"}', b"x%zz\\" + spelled + b"%"):
        assert SEARCH.find(data) == number


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\\n", b"%0A", b"%0d%0a"])
def test_lines_of_base64_and_hex_hide_nothing(end):
    for number in (0, 1, 2):
        for before in range(60):
            text = b"e" * before + STAND_INS[number] + b"\nHOME=/root"
            for encoded, width in (
                (b64encode(text), 76), (urlsafe_b64encode(text), 64), (text.hex().encode(), 60)
            ):  # fmt: skip
                lines = [encoded[at : at + width] for at in range(0, len(encoded), width)]
                assert SEARCH.find(end.join(lines)) == number


def test_characters_before_it_hide_nothing():
    for number, stand_in in enumerate(STAND_INS):
        for before in (b"%", b"%25", b"\\", b"\\u00", b"\\\\\\\\\\", b"%\\u00", b"%%", b"=", b"%6"):
            assert SEARCH.find(before + stand_in) == number, before


@given(st.binary(max_size=300))
def test_other_data_has_none(data):
    assert SEARCH.find(data) is None
    assert SEARCH.find(data + STAND_INS[0][:-1]) is None


PIECES = st.sampled_from([
    *(make(one) for make in SPELLINGS.values() for one in STAND_INS),
    b"%", b"\\", b"%2", b"%25", b"\\u00", b"\\u006", b"\\\\\\\\\\\\", b"67", b"6768",
    b"%67", b"%u0067", b"text ", b"%20", b"\\n", b"\\u003c", b"\xff", b"=",
])  # fmt: skip


@st.composite
def data_with_pieces(draw: st.DrawFn) -> list[bytes]:
    """A text of stand-ins, mostly incomplete ones, and other pieces; cut anywhere."""
    text = b""
    for piece in draw(st.lists(PIECES, max_size=6)):
        first = draw(st.sampled_from([0, 0, 0, 1, 2, 7]))
        last = draw(st.sampled_from([len(piece), len(piece), -1, -2, -5, len(piece) // 2]))
        text += piece[first:last]
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@given(data_with_pieces())
def test_the_cuts_of_a_stream_decide_nothing(parts):
    whole = b"".join(parts)
    stream = SEARCH.stream()
    gone = b""
    found = None
    for part in parts:
        fed = stream.feed(part)
        found = fed.found
        gone += fed.data
        assert whole.startswith(gone)
        if found is not None:
            break
    assert (found is None) == (SEARCH.find(whole) is None)
    if found is None:
        assert gone + stream.end() == whole
    else:
        assert SEARCH.find(gone) is None
        assert stream.feed(b"more").data == b""
        assert stream.end() == b""


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_byte_by_byte_the_end_of_a_stand_in_never_goes(spelling):
    for stand_in in STAND_INS:
        spelled = SPELLINGS[spelling](stand_in)
        text = b"before " + spelled + b" after"
        stream = SEARCH.stream()
        gone = b""
        for at in range(len(text)):
            fed = stream.feed(text[at : at + 1])
            gone += fed.data
            if fed.found is not None:
                break
        else:
            pytest.fail(f"not found: {spelled!r}")
        assert len(gone) < len(b"before " + spelled)


def found_in_two(search: StandInSearch, first: bytes, second: bytes) -> int | None:
    stream = search.stream()
    found = stream.feed(first).found
    return stream.feed(second).found if found is None else found


def test_a_cut_next_to_an_escape_decides_nothing():
    # Its first two characters are the digits of an escape, after a percent sign.
    stand_in = b"67hQ8lI2dI3cV5mA3gS1uM1uN2kE0kD5"
    search = StandInSearch([stand_in])
    half_escaped = stand_in[:-1] + percent(stand_in[-1])
    assert search.find(b"%" + half_escaped) is None
    assert search.find(half_escaped) == 0
    for cut in range(1, 38):
        whole = b"%" + half_escaped
        assert found_in_two(search, whole[:cut], whole[cut:]) is None
    # It is whole in the text of the JSON, where it is not yet read as percent escapes.
    whole = b"%" + stand_in[:4] + json_escaped(stand_in[4]) + stand_in[5:]
    assert search.find(whole) == 0
    for cut in range(len(whole)):
        assert found_in_two(search, whole[:cut], whole[cut:]) == 0


@pytest.mark.parametrize("escape", [percent, lambda one: percent(one, 3), json_escaped])
def test_an_escape_far_back_is_read_whole(escape):
    for stand_in in STAND_INS[:4]:
        form = stand_in[-32:]
        for kept in range(1, 32):
            whole = b"text: " + escape(form[0]) + form[1:]
            assert found_in_two(SEARCH, whole[:-kept], whole[-kept:]) is not None


def test_data_that_begins_no_stand_in_goes_at_once():
    stream = SEARCH.stream()
    for part in (b"event: a\n\n", b'data: {"a": "%20"}\n\n', b"." * 65536, b"50% ", b"a\\n."):
        assert stream.feed(part).data == part


def test_little_is_kept_of_endless_beginnings():
    for piece in (b"%25", b"\\", b"\\u00", STAND_INS[3][:-1], b"%2525\\u0036"):
        stream = SEARCH.stream()
        fed = sum(len(stream.feed(piece * 50).data) for _ in range(100))
        assert len(piece) * 5000 - fed < MAX_KEPT


def test_many_stand_ins_are_found_and_none_is_no_search():
    many = [stand_in_like(STAND_INS[0], random.Random(one).randrange) for one in range(40)]
    search = StandInSearch(many)
    for number, one in enumerate(many):
        assert search.find(b"a" + one + b"b") == number
    empty = StandInSearch([])
    assert empty.find(b"%67\\u0067") is None
    assert empty.stream().feed(b"%").data + empty.stream().end() in (b"", b"%")
    assert empty.find_in_name("example.com") is None


@pytest.mark.parametrize(
    "encode",
    [
        lambda one: one,
        lambda one: one.hex().encode(),
        lambda one: b32encode(one).rstrip(b"="),
        lambda one: b32encode(b"abc" + one).rstrip(b"="),
        lambda one: urlsafe_b64encode(one).rstrip(b"="),
    ],
)
def test_a_stand_in_is_found_in_a_name_across_labels_and_case(encode):
    for number in (0, 2, 3):
        text = encode(STAND_INS[number])
        labels = [text[at : at + 20].decode() for at in range(0, len(text), 20)]
        for name in (".".join(labels), ".".join(labels).lower(), ".".join(labels).upper()):
            assert SEARCH.find_in_name(f"{name}.example.com") == number
    text = b32encode(STAND_INS[2]).decode().rstrip("=")
    numbered = ".".join(f"{at}-{text[at : at + 57]}" for at in range(0, len(text), 57))
    assert SEARCH.find_in_name(f"{numbered}.example.com") == 2
    assert SEARCH.find_in_name("api.example.com") is None


def test_nothing_shows_a_stand_in():
    assert repr(SEARCH) == "StandInSearch()"
