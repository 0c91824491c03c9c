"""Runs of an ordinary user, in both isolations: an agent signs in, an SDK signs with stand-ins."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore
import pytest
from aws_requests import is_signed
from harness import (
    RUN_SECONDS,
    SYSTEM_PYTHON,
    Sessions,
    as_user,
    landlock_isolation,
    serving,
)
from login_world import World
from own_ca import write_authority
from tls_origin import signed_origin

from nono_trio.core.credentials.aws_keys import AwsKeys

if TYPE_CHECKING:
    from harness import Origin

STORE = "store.example"
KEYS = AwsKeys(b"AKIAIOSFODNN7EXAMPLE", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None)
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
SITE = str(Path(botocore.__file__).parents[1])
SDK = """
import json, os, sys
sys.path.append(sys.argv[1])
import boto3
client = boto3.client("dynamodb", region_name="eu-central-1", endpoint_url=sys.argv[2])
tables = client.list_tables()["TableNames"]
print(json.dumps([os.geteuid(), tables, os.environ["AWS_SECRET_ACCESS_KEY"]]))
"""


class UserSessions(Sessions):
    """Sessions of an ordinary user, who runs `prefix` and has a directory for all."""

    prefix: list[str]
    place: Path

    def call(self, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
        if self.prefix[1:]:
            for path in (self.place, *self.place.rglob("*")):
                shutil.chown(path, "nobody")
        return subprocess.run(
            [*self.prefix, "-B", "-P", "-m", "nono_trio", *arguments], env=self.environment,
            cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=RUN_SECONDS, check=False,
        )  # fmt: skip


class Store:
    """An origin that answers only what the real keys have signed."""

    def __init__(self, origin: Origin) -> None:
        self.right: list[bool] = []
        store = self

        class Answer(origin.RequestHandlerClass):  # type: ignore[name-defined,misc]
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                store.right.append(is_signed(self, body, KEYS))
                answer = b'{"TableNames": ["one"]}' if store.right[-1] else b"{}"
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        origin.RequestHandlerClass = Answer


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_ordinary_user_signs_in_and_uses_an_sdk(isolation: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # where another user can be
        _run(isolation, Path(name))


def _run(isolation: str, place: Path) -> None:
    prefix, variables = as_user("nobody", Path(__file__))
    sessions = UserSessions(place / "state", place / "home", variables)
    sessions.prefix, sessions.place = prefix, place
    for directory in (sessions.home, place / "world", place / "store"):
        directory.mkdir()
    world = World(sessions, place / "world")
    with serving(world.auth), serving(world.api), serving(world.other):
        first = world.run(isolation, "device", "api")
        assert (first["device"], first["api"]) == ([200, "alice"], [200, "hello alice"])
        world.auth.expire()
        assert world.run(isolation, "api")["api"] == [401, [200, "alice"], 200, "hello alice"]
    own = write_authority(place / "store")
    origin = signed_origin(*own, STORE)
    store, where = Store(origin), f"{STORE}:{origin.port}"
    secret = KEYS.secret_access_key.decode()
    sessions.variables = {
        **variables, "AWS_ACCESS_KEY_ID": KEYS.access_key_id.decode(),
        "AWS_SECRET_ACCESS_KEY": secret,
    }  # fmt: skip
    with serving(origin):
        done = sessions.run(
            "--isolation", isolation, "--upstream-ca", str(own[0]), "--credential", f"aws@{where}",
            "--resolve", f"{where}:127.0.0.1", "--read", SITE,
            "--", SYSTEM_PYTHON, "-c", SDK, SITE, f"https://{where}",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    uid, tables, stand_in = json.loads(done.stdout)
    assert tables == ["one"]
    assert store.right == [True]
    assert uid == place.stat().st_uid
    assert stand_in != secret
    files = [path for path in place.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in done.stdout + done.stderr
