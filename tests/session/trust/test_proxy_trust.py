"""`nono-trio proxy` that intercepts: its clients find the authority in the ready line."""

from __future__ import annotations

import os
import re
import signal
import ssl
import stat
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from harness import RUN_SECONDS, serving
from own_ca import write_authority
from tls_origin import signed_origin

from nono_trio.config.options import NetworkOptions
from nono_trio.session.trust.unused_files import unused_files

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


@pytest.mark.parametrize("flag", ["--tls-ca-cert", "--tls-ca-key", "--upstream-ca"])
def test_a_file_that_nothing_uses_is_told(flag) -> None:
    field = flag.removeprefix("--").replace("-", "_")
    network = NetworkOptions(**{field: "/file"})
    [warning] = unused_files(network, intercepts=False)
    assert warning == f"no host is intercepted, so nothing uses {flag}"
    assert unused_files(network, intercepts=True) == []
    assert unused_files(NetworkOptions(), intercepts=False) == []


def test_an_authority_of_ones_own_is_the_one_that_is_named(sessions, tmp_path) -> None:
    certificate, key = write_authority(tmp_path)
    words = ["--tls-ca-cert", str(certificate), "--tls-ca-key", str(key)]
    with sessions.proxy("--intercept", "all", *words) as (_, line):
        assert Path(line["ca_file"]).read_bytes() == certificate.read_bytes()


PROFILE = """
[network]
intercept = ["{host}"]
tls_ca = {{ "{host}" = "{ca}" }}
client_cert = {{ "{host}" = "{ca}" }}
client_key = {{ "{host}" = "env://CLIENT_KEY" }}
"""


def test_a_profile_gives_a_host_its_roots_and_a_client_certificate(sessions, tmp_path) -> None:
    own = write_authority(tmp_path)
    origin = signed_origin(*own, HOST, asks_clients=True)
    where = f"{HOST}:{origin.port}"
    profile = tmp_path / "profile.toml"
    profile.write_text(PROFILE.format(host=HOST, ca=own[0]))
    sessions.variables["CLIENT_KEY"] = own[1].read_text()
    words = ["-p", str(profile), "--allow-domain", where, "--resolve", f"{where}:127.0.0.1"]
    with serving(origin), sessions.proxy(*words) as (_, line):
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": line["proxy_url"]}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=line["ca_file"])),
        )
        with opener.open(f"https://{where}/", timeout=RUN_SECONDS) as answer:
            assert answer.status == 200
    assert own[1].read_text() not in "".join(path.read_text() for path in sessions.only.iterdir())


def test_a_server_that_wants_a_certificate_says_so(sessions, tmp_path) -> None:
    """In TLS 1.3 it does so after the handshake."""
    own = write_authority(tmp_path)
    origin = signed_origin(*own, HOST, asks_clients=True)
    where = f"{HOST}:{origin.port}"
    words = ["--allow-domain", where, "--resolve", f"{where}:127.0.0.1", "--intercept", HOST]
    with serving(origin), sessions.proxy(*words, "--upstream-ca", str(own[0])) as (_, line):
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({"https": line["proxy_url"]}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=line["ca_file"])),
        )
        with pytest.raises(urllib.error.HTTPError) as error:
            opener.open(f"https://{where}/", timeout=RUN_SECONDS)
        error.value.close()
    assert error.value.code == 502
    assert "the server wants a client certificate" in str(error.value)
    assert origin.seen == []
    last = sessions.decisions()[-1]
    assert (last["decision"], last["denial_category"]) == ("deny", "upstream_connect_failed")
    assert "the server wants a client certificate" in last["reason"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('tls_ca = { "a b" = "/ca.pem" }', "expected a host, got 'a b'"),
        ('client_key = { "a.example" = "BEGIN SECRET" }', "expected env://VARIABLE or file://PATH"),
    ],
)
def test_a_profile_that_names_no_host_or_no_source_is_refused(
    line, sentence, sessions, tmp_path
) -> None:
    profile = tmp_path / "profile.toml"
    profile.write_text(f"[network]\n{line}\n")
    done = sessions.call("profile", "validate", str(profile))
    assert done.returncode == 2
    assert sentence in done.stdout + done.stderr
    assert "SECRET" not in done.stdout + done.stderr
