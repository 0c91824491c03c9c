"""git in a real cage with a stand-in: by a credential helper, in a remote's URL, in ~/.netrc."""

from __future__ import annotations

import base64
import shutil
from typing import TYPE_CHECKING

import pytest
from git_origin import REPOSITORY, backend, git_origin, head, make_repository
from harness import landlock_isolation, serving
from own_ca import write_authority

if TYPE_CHECKING:
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    from tls_origin import TlsOrigin

READ, WRITE = "read.example", "write.example"
SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ456789"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
# Clones from the first host with a helper, fetches with the URL of a variable, is refused a push;
# pushes to the second with ~/.netrc.
SCRIPT = """
export GIT_TERMINAL_PROMPT=0
git config --global safe.directory '*' || exit 7
helper='!f() { echo username=me; echo "password=$GH_ENTERPRISE_TOKEN"; }; f'
git -c credential.helper="$helper" clone -q "$1" copy && cd copy || exit 9
git fetch -q "$REMOTE" && echo fetched
git -c user.name=a -c user.email=a@b.test commit -q --allow-empty -m 2 || exit 8
git push -q "$REMOTE" main || echo refused
git push -q "$2" main && echo pushed
cat ~/.netrc
"""


def guarded(origin: TlsOrigin, seen: list[str]) -> TlsOrigin:
    """The origin, which asks for Basic with the secret, and notes what it was given."""

    class Guarded(origin.RequestHandlerClass):  # type: ignore[name-defined,misc]
        def answer(self: BaseHTTPRequestHandler) -> None:
            given = self.headers["Authorization"]
            if given is None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            seen.append(base64.b64decode(given.partition(" ")[2]).decode())
            super().answer()  # type: ignore[misc]

        do_GET = do_POST = answer

    origin.RequestHandlerClass = Guarded
    return origin


@pytest.mark.skipif(backend() is None, reason="git with git-http-backend is not installed")
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_git_sends_a_stand_in_and_pushes_only_where_it_may(
    isolation: str, sessions, tmp_path: Path
) -> None:
    for name in ("authority", "read", "work"):
        (tmp_path / name).mkdir()
    own = write_authority(tmp_path / "authority")
    commit = make_repository(tmp_path / "read")
    shutil.copytree(tmp_path / "read", tmp_path / "write")  # with the same commit
    seen: dict[str, list[str]] = {"read": [], "write": []}
    read = guarded(git_origin(*own, READ, tmp_path / "read"), seen["read"])
    write = guarded(git_origin(*own, WRITE, tmp_path / "write"), seen["write"])
    where = {"read": f"{READ}:{read.port}", "write": f"{WRITE}:{write.port}"}
    (sessions.home / ".netrc").write_text(f"machine {WRITE}\nlogin {SECRET}\npassword x-oauth\n")
    (sessions.home / "own.toml").write_text(
        f'[credentials.mine]\nsource = "env://MINE"\nhosts = ["{where["write"]}"]\n'
        'files = ["~/.netrc"]\n'
    )
    sessions.variables = {
        "MINE": SECRET, "GH_ENTERPRISE_TOKEN": SECRET[::-1],
        "REMOTE": f"https://me:{SECRET[::-1]}@{where['read']}{REPOSITORY}",
    }  # fmt: skip
    with serving(read), serving(write):
        done = sessions.run(
            "-p", str(sessions.home / "own.toml"), "--isolation", isolation, "--allow-cwd",
            "--upstream-ca", str(own[0]), "--env-allow", "REMOTE",
            "--resolve", f"{where['read']}:127.0.0.1", "--resolve", f"{where['write']}:127.0.0.1",
            "--credential", f"github-enterprise@{where['read']}",
            "--", "sh", "-c", SCRIPT, "sh",
            *(f"https://{one}{REPOSITORY}" for one in where.values()),
            cwd=tmp_path / "work",
        )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:3] == ["fetched", "refused", "pushed"], done.stderr
    assert f"machine {WRITE}" in lines  # a copy of the file, with the stand-in in it
    assert {*seen["read"]} == {f"me:{SECRET[::-1]}"}
    assert {*seen["write"]} == {f"{SECRET}:x-oauth"}
    assert head(tmp_path / "read") == commit
    assert head(tmp_path / "write") != commit
    for secret in (SECRET, SECRET[::-1]):
        assert secret not in done.stdout + done.stderr
        assert secret.encode() not in b"".join(
            path.read_bytes() for path in sessions.state.rglob("*") if path.is_file()
        )
    # git first asks the proxy without its password.
    denied = [
        one
        for one in sessions.decisions()
        if one["decision"] == "deny" and one["denial_category"] != "authentication_failed"
    ]
    assert {one["denial_category"] for one in denied} == {"endpoint_policy"}
