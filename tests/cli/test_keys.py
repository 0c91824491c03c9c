"""`nono-trio keys`, as a user calls it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import Sessions


def test_the_only_key_is_meant_where_none_is_named(sessions: Sessions) -> None:
    """The line that `generate` prints works when it is pasted."""
    made = sessions.call("keys", "generate", "--id", "build")
    said = re.search(r"`nono-trio (keys export [^`]*)`", made.stderr)
    assert said is not None
    assert said[1] == "keys export --id build"
    named = sessions.call(*shlex.split(said[1]))
    assert named.stdout.count("BEGIN PUBLIC KEY") == 2
    assert sessions.call("keys", "export").stdout == named.stdout


@pytest.mark.parametrize("made", [(), ("first", "second")])
def test_a_key_that_is_missing_gets_a_hint_that_works(
    sessions: Sessions, made: tuple[str, ...]
) -> None:
    for name in made:
        sessions.call("keys", "generate", "--id", name)
    refused = sessions.call("keys", "export")
    assert refused.returncode == 2
    assert all(name in refused.stderr for name in made)
    hint = re.search(r"^hint: nono-trio (.*)$", refused.stderr, re.MULTILINE)
    assert hint is not None
    assert sessions.call(*shlex.split(hint[1])).returncode == 0


def test_a_verifier_key_is_for_a_session_that_can_be(sessions: Sessions) -> None:
    """An id may be of another machine; a name that is mistyped is not an id."""
    sessions.call("keys", "generate")
    assert sessions.call("keys", "export", "--vkey", "0123456789abcdef").returncode == 0
    refused = sessions.call("keys", "export", "--vkey", "lates")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "expected a session, got 'lates'" in refused.stderr


@pytest.mark.parametrize("place", ["/proc/KEY", "/proc/a/b/KEY"])
def test_a_key_that_cannot_be_made_gets_a_hint_that_works(sessions: Sessions, place: str) -> None:
    refused = sessions.call("keys", "generate", "--file", place)
    assert refused.returncode == 2
    assert f"{place} can't be made" in refused.stderr
    assert refused.stderr.endswith("hint: look at its directory: ls -ld /proc\n")
