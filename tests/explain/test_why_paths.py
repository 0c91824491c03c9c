"""`why --path` against a run: random questions about a tree with links, asked of both."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING

import pytest
from harness import SYSTEM_PYTHON, landlock_isolation

from nono_trio.cli.flags import given_options
from nono_trio.cli.why import why as why_command
from nono_trio.config.settle import settle_run
from nono_trio.explain import why

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
TRY = """
import json, os, sys
def may(operation, path, identity):
    try:
        found = os.stat(path)
        if [found.st_dev, found.st_ino] != identity:
            return False  # the cage's own, by that name
        if operation == "read":
            os.listdir(path) if os.path.isdir(path) else open(path).close()
        elif os.path.isdir(path):
            os.mkdir(path + "/.new")
            os.rmdir(path + "/.new")
        else:
            open(path, "r+").close()
    except OSError:
        return False
    return True
questions = json.loads(sys.argv[1])
print(json.dumps([may(*question) for question in questions]))
"""


def make_tree(top: Path, chance: random.Random) -> list[Path]:
    """Directories, files, and links between them: to files, directories and links."""
    paths = []
    for name in ("a", "b", "c"):
        for directory in (top / name, top / name / "in"):
            directory.mkdir(parents=True)
            (directory / "file").write_text("x")
            paths += [directory, directory / "file"]
    for number in range(8):
        place = chance.choice([one for one in paths if one.is_dir() and not one.is_symlink()])
        link = (top if number % 2 else place) / f"link{number}"
        link.symlink_to(chance.choice([one for one in paths if place not in one.parents]))
        paths.append(link)
        if link.is_dir():
            paths.append(link / "file")
    return [one for one in paths if one.exists()]


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_questions_have_the_answers_of_a_run(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, isolation: str
) -> None:
    chance = random.Random(seed)
    paths = make_tree(tmp_path / "tree", chance)
    options = ["--isolation", isolation]
    # A link out of the directory that it lies in is refused as a grant.
    top = tmp_path / "tree"
    grantable = [one for one in paths if not one.is_symlink() and one.resolve() == one]
    grantable += [one for one in paths if one.is_symlink() and one.parent == top]
    for _ in range(3):
        granted = chance.choice(grantable)
        flag = chance.choice(["--read", "--allow"]) + ("" if granted.is_dir() else "-file")
        options += [flag, str(granted)]
    questions = [(chance.choice(["read", "write"]), str(chance.choice(paths))) for _ in range(40)]
    asked = [(*one, (os.stat(one[1]).st_dev, os.stat(one[1]).st_ino)) for one in questions]
    done = sessions.run(*options, "--", SYSTEM_PYTHON, "-c", TRY, json.dumps(asked))
    if done.returncode == 2:
        pytest.fail(f"the grants of this seed are refused: {done.stderr}")
    for name, value in sessions.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(sessions.home)
    monkeypatch.setattr(why, "chosen_isolation", lambda _options: isolation)
    with why_command.make_context("why", [*options, "--path", "/"]) as context:
        given = {**context.params}
        for name in ("host", "port", "path", "operation", "as_json"):
            del given[name]
        run = settle_run((), given_options(given))
    answers = [why.explain_path(run, path, operation) for operation, path in questions]
    differing = [
        (question, said.allowed, said.reason)
        for question, said, does in zip(questions, answers, json.loads(done.stdout), strict=True)
        if said.allowed != does
    ]
    assert not differing, "\n".join(map(str, [options, *differing]))
