"""The preset read-only in a real cage: git clones and fetches, and can't push."""

from __future__ import annotations

import pytest
from git_origin import REPOSITORY, backend, git_origin, head, make_repository
from harness import serving
from own_ca import write_authority

HOST = "git.example"
SCRIPT = """
git -c safe.directory='*' clone -q "$1" copy && cd copy && git fetch -q && echo fetched || exit 9
git -c user.name=a -c user.email=a@b.test commit -q --allow-empty -m 2 || exit 8
git push -q origin main && echo pushed
"""


@pytest.mark.skipif(backend() is None, reason="git with git-http-backend is not installed")
def test_git_fetches_and_can_not_push(sessions, tmp_path) -> None:
    (tmp_path / "authority").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "work").mkdir()
    own = write_authority(tmp_path / "authority")
    commit = make_repository(tmp_path / "root")
    origin = git_origin(*own, HOST, tmp_path / "root")
    where = f"{HOST}:{origin.port}"
    with serving(origin):
        done = sessions.run(
            "--upstream-ca", str(own[0]), "--allow-cwd",
            "--resolve", f"{where}:127.0.0.1",
            "--allow-endpoint", f"read-only https://{where}/org/**",
            "--", "sh", "-c", SCRIPT, "sh", f"https://{where}{REPOSITORY}",
            cwd=tmp_path / "work",
        )  # fmt: skip
    assert done.stdout == "fetched\n", done.stderr
    assert "hint: allow it with --allow-endpoint 'GET https://" in done.stderr
    assert {*origin.seen} == {
        f"GET {REPOSITORY}/info/refs?service=git-upload-pack", f"POST {REPOSITORY}/git-upload-pack",
    }  # fmt: skip
    assert head(tmp_path / "root") == commit
