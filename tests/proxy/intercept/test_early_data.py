"""Early data (0-RTT) of a program is never read: others could send it again (RFC 8446 8).

OpenSSL's client gets a session that allows early data from OpenSSL's own server, and offers it to
the proxy. The server shows that the client does send it.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from looked_into import HOST, looking_into
from own_ca import write_authority
from running_proxy import BOUND, TOKEN, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

EARLY = f"GET /ok/early HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
WHOLE = f"GET /ok/late HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def running(*command: str) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        ["openssl", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


def client(*arguments: str) -> tuple[str, ...]:
    return "s_client", "-servername", HOST, "-tls1_3", "-ign_eof", *arguments


async def said_until(process: trio.Process, text: bytes) -> bytes:
    """All that a process says until the end of the line that has `text`, or until its own end."""
    said = b""
    assert process.stdout is not None
    with trio.fail_after(BOUND):
        while b"\n" not in said.partition(text)[2]:
            more = await process.stdout.receive_some(4096)
            if not more:
                break
            said += more
    return said


async def session_for_early_data(directory: Path, early: Path) -> Path:
    """The file of a session by which OpenSSL's server takes early data."""
    certificate, key = write_authority(directory)
    accepts = ("s_server", "-accept", "127.0.0.1:0", "-early_data", "-no_anti_replay")
    async with running(*accepts, "-cert", str(certificate), "-key", str(key)) as server:
        said = await said_until(server, b"ACCEPT ")
        port = said.partition(b"ACCEPT ")[2].split(b"\n")[0].rpartition(b":")[2].decode()
        session = directory / "session"
        connect = ("-connect", f"127.0.0.1:{port}")
        async with running(*client(*connect, "-sess_out", str(session))):
            await until(lambda: session.exists() and session.read_bytes().endswith(b"-----\n"))
        offers = ("-sess_in", str(session), "-early_data", str(early))
        async with running(*client(*connect, *offers)) as again:
            assert b"was accepted" in await said_until(again, b"Early data was")
    return session


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
async def test_early_data_is_refused_and_reaches_nothing(tmp_path):
    early = tmp_path / "early"
    early.write_text(EARLY)
    session = await session_for_early_data(tmp_path, early)
    async with looking_into(f"allow * https://{HOST}/ok/**") as at:
        through = ("-proxy", f"127.0.0.1:{at.proxy.port}", "-proxy_user", "nono")
        offers = ("-sess_in", str(session), "-early_data", str(early))
        arguments = (*through, "-proxy_pass", f"pass:{TOKEN}", "-connect", f"{HOST}:443", *offers)
        async with running(*client(*arguments)) as process:
            assert b"was rejected" in await said_until(process, b"Early data was")
            assert process.stdin is not None
            await process.stdin.send_all(WHOLE.encode())
            await at.proxy.flows(1)
        paths = [path for _, _, _, path in at.records() if path is not None]
        assert paths == ["/ok/late"]
        assert [one.target for one in at.origin.requests] == [b"/ok/late"]
