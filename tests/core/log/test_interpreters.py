"""Which of an interpreter's arguments is its script."""

from __future__ import annotations

import pytest

from nono_trio.core.log.processes import program_text, shown_argv

SCRIPTS = [
    ("/usr/bin/python3.11", "python3 sync.py --fast", ["python3", "sync.py"]),
    ("/usr/bin/python3.11", "python3 -u sync.py", ["python3", "sync.py"]),
    ("/usr/bin/python3.11", "python3 -Iu -X dev -W error -- sync.py", ["python3", "sync.py"]),
    ("/usr/bin/bash", "bash -e job.sh", ["bash", "job.sh"]),
    ("/usr/bin/bash", "bash -eu -o pipefail --norc job.sh a", ["bash", "job.sh"]),
    ("/usr/bin/dash", "/bin/sh -x ./job.sh", ["/bin/sh", "./job.sh"]),
    ("/usr/bin/node", "node --no-warnings --max-old-space-size=100 app.js", ["node", "app.js"]),
    ("/usr/bin/node", "node -r ./hook.js app.js", ["node", "app.js"]),
    ("/usr/bin/perl", "perl -w -I lib job.pl", ["perl", "job.pl"]),
]
# Code, a module, or an option whose meaning is not known: the second word as it is.
NO_SCRIPTS = [
    ("/usr/bin/python3.11", "python3 -c code", ["python3", "-c"]),
    ("/usr/bin/python3.11", "python3 -Ic code", ["python3", "-Ic"]),
    ("/usr/bin/python3.11", "python3 -um pip", ["python3", "-um"]),
    ("/usr/bin/bash", "bash -ec code", ["bash", "-ec"]),
    ("/usr/bin/bash", "bash -e -c code", ["bash", "-e"]),
    ("/usr/bin/node", "node -pe code", ["node", "-pe"]),
    ("/usr/bin/perl", "perl -ne code file", ["perl", "-ne"]),
    ("/usr/bin/ruby", "ruby -w", ["ruby", "-w"]),
    ("/usr/bin/curl", "curl -s http://a.example", ["curl", "-s"]),
    ("/usr/bin/python3.11", "python3", ["python3"]),
    (None, "what -e file", ["what", "-e"]),
]


@pytest.mark.parametrize(("exe", "words", "shown"), SCRIPTS + NO_SCRIPTS)
def test_arguments(exe: str | None, words: str, shown: list[str]) -> None:
    assert shown_argv(exe, words.split()) == shown


def test_the_value_of_a_secret_option_is_no_script() -> None:
    assert shown_argv("/usr/bin/job", ["job", "--token", "abc"]) == ["job", "--token"]
    assert shown_argv("/usr/bin/node", ["node", "--token", "abc"]) == ["node", "--token"]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("-uuser:secret", "-u[REDACTED]"),
        ("-Uuser:secret", "-U[REDACTED]"),
        ("-HAuthorization: Bearer abc", "-HAuthorization: [REDACTED]"),
        ("-HAccept: text/html", "-HAccept: text/html"),
        ("-sS", "-sS"),
        ("-u", "-u"),
    ],
)
def test_a_secret_in_one_word_with_its_option(word: str, shown: str) -> None:
    assert shown_argv("/usr/bin/curl", ["curl", word, "http://a.example"]) == ["curl", shown]


def test_a_program_is_told_with_its_script() -> None:
    argv = shown_argv("/usr/bin/python3.11", ["python3", "-u", "/srv/sync.py"])
    assert program_text("/usr/bin/python3.11", argv) == "python3.11 sync.py"
