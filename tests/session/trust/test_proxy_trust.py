"""`nono-trio proxy` that intercepts: its clients find the authority in the ready line."""

from __future__ import annotations

import os
import re
import signal
import ssl
import stat
import sys
import urllib.request
from pathlib import Path

from harness import RUN_SECONDS, serving
from own_ca import write_authority
from tls_origin import signed_origin

HOST = "seen.example"


def test_the_ready_line_names_the_authority(sessions, tmp_path) -> None:
    own = write_authority(tmp_path)
    origin = signed_origin(*own, HOST)
    where = f"{HOST}:{origin.port}"
    words = ["--allow-domain", where, "--resolve", f"{where}:127.0.0.1", "--intercept", HOST]
    with serving(origin), sessions.proxy(*words, "--upstream-ca", str(own[0])) as (process, line):
        ca_file = Path(line["ca_file"])
        assert stat.S_IMODE(ca_file.parent.stat().st_mode) == 0o700
        assert b"PRIVATE" not in ca_file.read_bytes()
        if sys.platform == "linux":  # memory with a key is never dumped
            limits = Path(f"/proc/{process.pid}/limits").read_text()
            assert re.search(r"^Max core file size +0 ", limits, re.MULTILINE)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": line["proxy_url"]}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca_file)),
        )
        with opener.open(f"https://{where}/path", timeout=RUN_SECONDS) as answer:
            assert answer.read() == b"ok\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=RUN_SECONDS)
    assert origin.seen == ["/path"]
    assert not ca_file.parent.exists()
    told = [(one["mode"], one["method"], one["path"]) for one in sessions.decisions()]
    assert told[-1] == ("connect_intercept", "GET", "/path")


def test_without_interception_there_is_none(sessions) -> None:
    with sessions.proxy("--allow-domain", "a.example.com") as (_, line):
        assert "ca_file" not in line
    assert not os.path.exists(sessions.state / "trust")


def test_an_authority_of_ones_own_is_the_one_that_is_named(sessions, tmp_path) -> None:
    certificate, key = write_authority(tmp_path)
    words = ["--tls-ca-cert", str(certificate), "--tls-ca-key", str(key)]
    with sessions.proxy("--intercept", "all", *words) as (_, line):
        assert Path(line["ca_file"]).read_bytes() == certificate.read_bytes()
