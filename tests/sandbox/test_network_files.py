"""Whatever the machine's /etc/hosts and /etc/resolv.conf are, there is a cage, and names in it."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import NONO_TRIO, Sessions, as_user
from machine_files import copy_of_etc, no_other_etc, run_with_etc

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from harness import Origin

    Run = Callable[..., subprocess.CompletedProcess[str]]

_REFUSED = no_other_etc()
pytestmark = pytest.mark.skipif(_REFUSED is not None, reason=f"no other /etc here: {_REFUSED}")

LOOK_UP = "getent hosts db.example.com localhost; echo end"
FOUND = "fd6e:6f6e:6f2d::1"
HOSTS = """\
127.0.0.1 localhost
10.9.8.7 db.example.com
127.0.0.1 dev.example.com
127.0.0.1 mine.example.com
172.17.0.2 {own}.example.com {own}
"""


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    return copy_of_etc(tmp_path / "etc")


@pytest.fixture
def run(sessions: Sessions, etc: Path) -> Run:
    """Run nono-trio where `etc` is /etc."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_with_etc(etc, [NONO_TRIO, *arguments], sessions.environment, sessions.home)

    return run


def make(path: Path, kind: str) -> None:
    """Put something at `path` that is no file."""
    path.unlink(missing_ok=True)
    if kind == "dangling":
        path.symlink_to("../run/nobody/made/this")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "directory":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("missing", []),
        ("dangling", []),
        ("loop", []),
        ("directory", []),
        ("dangling", ["--read", "/etc"]),
        ("missing", ["--no-sandbox"]),
    ],
)
def test_there_is_a_cage_with_names(run: Run, etc: Path, kind: str, more: list[str]) -> None:
    make(etc / "resolv.conf", kind)
    if not more:
        make(etc / "hosts", kind)
    done = run(
        "run", "-s", "--transparent", "on", *more, "--allow-domain", "db.example.com:18080",
        "--", "sh", "-c", LOOK_UP,
    )  # fmt: skip
    assert FOUND in done.stdout, done.stderr
    assert "localhost" in done.stdout
    assert done.stdout.endswith("end\n")


@pytest.mark.parametrize("user", ["root", "user"] if os.geteuid() == 0 else ["user"])
def test_hosts_of_other_machines_are_the_supervisors_to_find(
    open_place: Path, etc: Path, origin: Origin, user: str
) -> None:
    """No host has 10.9.8.7 here: an attempt to dial it shows that the name was decided."""
    own = socket.gethostname()
    (etc / "hosts").write_text(HOSTS.format(own=own))
    (etc / "hosts").chmod(0o644)
    make(etc / "resolv.conf", "dangling")
    prefix, variables = as_user("root" if user == "root" else "nobody", Path(__file__))
    program = (
        "import json, socket, urllib.request as u\n"
        "found = {}\n"
        f"for name in ('db.example.com', 'dev.example.com', 'mine.example.com', {own!r}):\n"
        "    found[name] = socket.getaddrinfo(name, 80)[0][4][0]\n"
        f"with socket.create_server(({own!r}, 0)) as server:\n"
        "    found['bound'] = server.getsockname()[0]\n"
        "try:\n"
        f"    u.urlopen('http://dev.example.com:{origin.port}/', timeout=60)\n"
        "except Exception as error:\n"
        "    found['own'] = str(error)\n"
        "opener = u.build_opener(u.ProxyHandler({}))\n"
        f"found['mine'] = opener.open('http://mine.example.com:{origin.port}/x').read().decode()\n"
        "print(json.dumps(found))\n"
    )
    done = run_with_etc(
        etc,
        [
            *prefix, "-m", "nono_trio", "run", "-s", "--transparent", "on", "--audit-dir",
            str(open_place / "own"), "--allow-domain", "db.example.com:18080",
            "--allow-domain", f"mine.example.com:{origin.port}",
            "--resolve", f"mine.example.com:{origin.port}:127.0.0.1",
            "--", "/usr/bin/python3", "-c", program,
        ],
        {"PATH": os.environ["PATH"], "HOME": "/", **variables},
        Path("/"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["db.example.com"].startswith("fd6e:6f6e:6f2d::")
    assert found["dev.example.com"] == found[own] == found["bound"] == "127.0.0.1"
    assert "refused" in found["own"]  # asked of the cage's loopback, past the proxy
    assert found["mine"].strip() == "ok"
    assert origin.seen == ["/x"]


def test_a_user_who_grants_the_hosts_file_by_name_gets_it(run: Run, etc: Path) -> None:
    (etc / "hosts").write_text("10.9.8.7 db.example.com\n")
    done = run("run", "-s", "--read-file", "/etc/hosts", "--", "cat", "/etc/hosts")
    assert done.stdout == "10.9.8.7 db.example.com\n"


def test_a_block_list_is_told(run: Run, etc: Path) -> None:
    names = "".join(f"127.0.0.1 ads{number}.example.net\n" for number in range(6000))
    (etc / "hosts").write_text(names)
    done = run("run", "--", "sh", "-c", "grep -c ads /etc/hosts; echo $NO_PROXY | wc -c")
    kept, length = map(int, done.stdout.split())
    assert (kept, length < 5000) == (4096, True)
    assert "no room in NO_PROXY for" in done.stderr
