"""The note of an allowed request is written, and read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.policy.reasons import LISTEN_PORT_FLAG, OPEN_PORT_FLAG
from nono_trio.core.policy.request_note import Note, format_note, parse_note

hosts = st.from_regex(
    r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,20}){0,3}|\[[0-9a-f:]{2,39}\]", fullmatch=True
)


NOTES = {
    None: Note(),
    "--open-port": Note(port_flag=OPEN_PORT_FLAG),
    "--listen-port": Note(port_flag=LISTEN_PORT_FLAG),
    "--allow-domain TLS://a.test": Note("TLS://a.test"),
    "looked up as a.b.test., a.": Note(looked_up=("a.b.test.", "a.")),
    "--allow-domain tcp://a:22; looked up as a.b.test, a": Note("tcp://a:22", ("a.b.test", "a")),
}


@pytest.mark.parametrize("text", NOTES)
def test_each_note_is_written_and_read(text: str | None) -> None:
    assert format_note(NOTES[text]) == text
    assert parse_note(text) == NOTES[text]


@given(
    hosts, st.lists(hosts).map(tuple), st.sampled_from(["", OPEN_PORT_FLAG, LISTEN_PORT_FLAG]),
    st.booleans(),
)  # fmt: skip
def test_a_note_that_is_written_is_read(
    entry: str, names: tuple[str, ...], flag: str, observed: bool
) -> None:
    note = Note(entry, names, flag, observed)
    assert parse_note(format_note(note)) == note


@given(st.text())
def test_a_note_of_anybody_is_read_without_an_error(text: str) -> None:
    parse_note(text)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [("--allow-domain TCP://a.test:22", "tcp://"), ("--allow-domain a.test", ""), ("tls://a", "")],
)
def test_a_note_tells_the_scheme_of_its_entry(text: str, scheme: str) -> None:
    assert parse_note(text).scheme == scheme
