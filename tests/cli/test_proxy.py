"""`nono-trio proxy`: how it says that it is ready, and to whom."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys

import pytest
from harness import PYTHON_GRANTS, RUN_SECONDS, Sessions, landlock_isolation

from nono_trio.cli.live import WITHOUT_TOKEN
from nono_trio.cli.proxy import IN_CLEAR

BARE = """
import os, socket
from urllib.parse import urlsplit
proxy = urlsplit(os.environ["HTTP_PROXY"])
for request in (b"GET http://a.test/ HTTP/1.1\\r\\nHost: a.test\\r\\n\\r\\n",) * 20:
    with socket.create_connection((proxy.hostname, proxy.port)) as sock:
        sock.sendall(request)
        assert b" 407 " in sock.recv(1000)
"""


def ended(process: subprocess.Popen[str]) -> str:
    """Ask it to end; what it said on stderr."""
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("before", [None, "", '{"schema": 1, "port": 1}\n'])
def test_the_ready_file_is_the_line_for_its_owner_alone_and_goes_at_the_end(
    sessions: Sessions, before: str | None
) -> None:
    file = sessions.home / "ready"
    if before is not None:
        file.write_text(before)
        file.chmod(0o666)
    with sessions.started("proxy", "--ready-file", str(file)) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert file.read_text() == line
        assert json.loads(line)["token"]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert [found.name for found in sessions.home.iterdir() if "ready" in found.name] == [
            "ready"
        ]
        ended(process)
    assert not file.exists()


def test_another_file_in_its_place_at_the_end_stays(sessions: Sessions) -> None:
    file = sessions.home / "ready"
    with sessions.started("proxy", "--ready-file", str(file)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        file.unlink()
        file.write_text("somebody else's")
        ended(process)
    assert file.read_text() == "somebody else's"


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "fifo", "directory", "nowhere"])
def test_what_is_no_ready_file_is_not_replaced(sessions: Sessions, kind: str) -> None:
    file, other = sessions.home / "ready", sessions.home / "other"
    other.write_text("precious")
    if kind == "file":
        file.write_text("precious")
    elif kind in ("link", "dangling"):
        file.symlink_to(other if kind == "link" else sessions.home / "absent")
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "directory":
        file.mkdir()
    else:
        file = sessions.home / "absent" / "ready"
    done = sessions.call("proxy", "--ready-file", str(file))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("nono-trio: error: --ready-file")
    assert "hint: " in done.stderr
    assert done.stdout == ""
    assert other.read_text() == "precious"


@pytest.mark.parametrize(
    ("address", "warned"), [("127.0.0.1", False), ("[::1]", False), ("0.0.0.0", True)]
)
def test_a_listener_beyond_loopback_is_warned_of(
    sessions: Sessions, address: str, warned: bool
) -> None:
    if address == "[::1]" and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    with sessions.started("proxy", "--listen", f"{address}:0") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert (IN_CLEAR in ended(process)) is warned


@pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=landlock_isolation)]
)
def test_requests_that_never_have_the_token_are_one_denial(
    sessions: Sessions, isolation: str
) -> None:
    """And twenty of them are no twenty records."""
    words = [*PYTHON_GRANTS, "--isolation", isolation, "--fail-on-deny"]
    done = sessions.run(*words, "--", sys.executable, "-c", BARE)
    assert done.returncode == 3, done.stderr
    assert "\nnono-trio: 1 denied, 0 failed, 0 allowed\n" in done.stderr
    assert WITHOUT_TOKEN.partition("{")[0] in done.stderr
    [log] = sessions.state.glob("audit/*/audit-events.ndjson")
    lines = [line for line in log.read_text().splitlines() if "authentication_failed" in line]
    assert 2 <= len(lines) < 20
    told = re.search(r"([0-9]+) more requests without the right token", lines[-1])
    assert told is not None
    assert int(told[1]) <= 19
    assert sessions.call("audit", "verify", "latest").returncode == 0
