"""The lint step that counts turns of phrase: what it finds, what it leaves alone, how it fails."""

from __future__ import annotations

import subprocess
import sys

import pytest
from checkout import ROOT

SCRIPT = ROOT / "scripts" / "plain_words.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "sentence",
    [
        "It is closed, for it has no right to it.",
        "There the name is none.",
        "Somebody has to ask whoever is there.",
        "The record stands in the log.",
        "The program is told at once.",
        "What the launcher does with it.",
        "A socket that can't be had here.",
        "It ends, as it does elsewhere.",
        "The directory and nothing else.",
    ],
)
def test_a_turn_is_found_in_each_kind_of_text(tmp_path, sentence):
    for name, text in {
        "comment.py": f"# {sentence}\n",
        "docstring.py": f'"""{sentence}"""\n',
        "message.py": f"print({sentence!r})\n",
        "prose.md": f"# Title\n\n{sentence}\n",
    }.items():
        (tmp_path / name).write_text(text)
        done = run("--list", tmp_path / name)
        assert done.returncode == 1, (name, done.stdout)
        assert name in done.stdout


@pytest.mark.parametrize(
    "sentence",
    [
        "The proxy refuses the request.",
        "Waits for a client.",
        "None of them is open.",
        "It stands for one socket.",
        "The command has a stand-in.",
        "What is refused?",
    ],
)
def test_plain_sentences_pass(tmp_path, sentence):
    (tmp_path / "a.md").write_text(sentence)
    done = run(tmp_path / "a.md")
    assert done.returncode == 0, done.stdout


def test_blocks_of_code_are_no_prose(tmp_path):
    (tmp_path / "a.md").write_text("Words.\n\n```\nnobody is told\n```\n")
    assert run(tmp_path).returncode == 0


def test_one_turn_in_a_thousand_words_is_allowed(tmp_path):
    words = " ".join(["word"] * 999)
    (tmp_path / "a.md").write_text(f"{words} whoever\n")
    assert run(tmp_path).returncode == 0
    (tmp_path / "a.md").write_text(f"{words} whoever nobody\n")
    assert run(tmp_path).returncode == 1
