"""Real cages: which programs trust the authority of a session, and that none can change it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import (
    NONO_TRIO,
    PROBES,
    RUN_SECONDS,
    SYSTEM_PYTHON,
    Sessions,
    as_user,
    landlock_isolation,
    serving,
)
from own_ca import write_authority
from tls_origin import signed_origin

from nono_trio.proxy.intercept.root_store import SYSTEM_FILES

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST = "seen.example"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
SYSTEM = next((path for path in SYSTEM_FILES if os.path.isfile(path)), None)
POLICIES = ["/etc/chromium/policies/managed/nono-trio.json", "/etc/firefox/policies/policies.json"]
JAVA = Path("/etc/ssl/certs/java/cacerts")
needs_system = pytest.mark.skipif(SYSTEM is None, reason="this system has no file of roots")


def run(
    sessions: Sessions, *words: str, prefix: Sequence[str] = (NONO_TRIO,), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, "run", *words],
        env=sessions.environment | variables,
        cwd=sessions.home, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=RUN_SECONDS, check=False,
    )  # fmt: skip


@pytest.fixture
def own(tmp_path) -> tuple[Path, Path]:
    """An authority of the user's: then the test has its key for an origin."""
    directory = tmp_path / "authority"
    directory.mkdir()
    return write_authority(directory)


@pytest.fixture
def theirs(tmp_path) -> Path:
    """A directory for certificates of the user's, which the command may read."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    return directory


def intercepting(own: tuple[Path, Path]) -> list[str]:
    certificate, key = map(str, own)
    return ["--intercept", HOST, "--tls-ca-cert", certificate, "--tls-ca-key", key]


@needs_system
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_programs_trust_the_authority_and_cannot_change_it(isolation, sessions, own) -> None:
    origin = signed_origin(*own, HOST)
    where = f"{HOST}:{origin.port}"
    policies = POLICIES if isolation == "namespace" else []
    with serving(origin):
        done = run(
            sessions, "-v", *intercepting(own), "--upstream-ca", str(own[0]),
            "--isolation", isolation,
            "--read", str(PROBES), "--allow-domain", where, "--resolve", f"{where}:127.0.0.1",
            "--", SYSTEM_PYTHON, str(PROBES / "trust.py"), f"https://{where}/", str(SYSTEM),
            *policies,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    clients = told["clients"]
    arrived = {path.split("/")[1] for path in origin.seen}  # so the handshake was accepted
    assert {name: said for name, said in clients.items() if name not in arrived} == {}
    assert {"curl", "python"} <= arrived
    assert told["changed"] == {}
    if isolation == "namespace":
        assert told["sizes"][str(SYSTEM)] == told["sizes"][told["variables"]["SSL_CERT_FILE"]]
    assert told["sizes"][told["variables"]["NODE_EXTRA_CA_CERTS"]] == 1
    root = base64.b64encode(ssl.PEM_cert_to_DER_cert(own[0].read_text())).decode()
    installed = {"Certificates": {"Install": ["/run/nono-trio/trust/session-ca.pem"]}}
    expected = [{"CACertificates": [root]}, {"policies": installed}]
    assert told["policies"] == expected[: len(policies)]
    if JAVA.exists():
        assert bytes.fromhex(told["java"]).count(b"test authority own") == 2  # subject, issuer
    assert "nono-trio: cage: trust: variables name" in done.stderr
    assert ("not in Chromium and Firefox" in done.stderr) == (isolation == "landlock")


SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


def variables(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_without_interception_nothing_is_changed(isolation, sessions) -> None:
    """A variable of the user's is passed on as it is, and no file is made."""
    sessions.variables["SSL_CERT_DIR"] = "/certificates"
    done = sessions.run("--isolation", isolation, "--", SYSTEM_PYTHON, "-c", SHOW)
    seen = variables(done)
    assert seen["SSL_CERT_DIR"] == "/certificates"
    assert not {"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"} & seen.keys()
    assert not (sessions.state / "trust").exists()


COUNT = """
import json, os, sys
text = open(os.environ["SSL_CERT_FILE"], "rb").read()
print(json.dumps({"variables": dict(os.environ), "holds": [
    open(path, "rb").read().strip() in text for path in sys.argv[1:]]}))
"""


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_the_user_trusted_is_still_trusted(isolation, sessions, own, theirs) -> None:
    """By file and by directory, by a variable of one program, and by npm's settings."""
    names = ("file", "directory", "single", "npm")
    files = {name: write_authority(theirs, name)[0] for name in names}
    (theirs / "hashed").mkdir()
    (theirs / "hashed/0a1b2c3d.0").write_bytes(files["directory"].read_bytes())
    (sessions.home / ".npmrc").write_text(f"cafile={files['npm']}\n")
    done = run(
        sessions, *intercepting(own), "--isolation", isolation, "--read", str(theirs),
        "--read-file", str(own[0]),
        "--", SYSTEM_PYTHON, "-c", COUNT, *map(str, files.values()), str(own[0]),
        SSL_CERT_FILE=str(files["file"]),
        SSL_CERT_DIR=str(theirs / "hashed"),
        CURL_CA_BUNDLE=str(files["single"]),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["holds"] == [True] * 5
    seen = told["variables"]
    assert "SSL_CERT_DIR" not in seen
    assert seen["CURL_CA_BUNDLE"] == seen["npm_config_cafile"] == seen["SSL_CERT_FILE"]
    assert not any((sessions.state / "trust").iterdir())  # gone with the session


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_ordinary_user_has_it_too(isolation) -> None:
    prefix, variables = as_user("nobody", Path(__file__))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        sessions = Sessions(place / "state", place / "home")
        sessions.home.mkdir()
        own = write_authority(place)
        if os.geteuid() == 0:
            for path in (place, sessions.home, *own):
                shutil.chown(path, "nobody")
        done = run(
            sessions, *intercepting(own), "--isolation", isolation, "--read-file", str(own[0]),
            "--", SYSTEM_PYTHON, "-c", COUNT, str(own[0]),
            prefix=[*prefix, "-B", "-m", "nono_trio"], **variables,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holds"] == [True]


def test_roots_that_the_command_may_write_are_not_used(sessions, own, theirs) -> None:
    """An earlier command could have put a root of its own there."""
    file, _ = write_authority(theirs, "file")
    done = run(
        sessions, *intercepting(own), "--allow", str(theirs),
        "--", SYSTEM_PYTHON, "-c", COUNT, str(file), SSL_CERT_FILE=str(file),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["variables"]["SSL_CERT_FILE"] != str(file)
    assert f"SSL_CERT_FILE is not used: the command may write {file}" in done.stderr


def test_a_trust_store_that_the_command_may_write_is_not_parsed(sessions, own, theirs) -> None:
    """It could say that its password takes hours to check."""
    store = theirs / "lib/security/cacerts"
    store.parent.mkdir(parents=True)
    store.write_bytes(b"\x30\x82")
    done = run(
        sessions, *intercepting(own), "--allow", str(theirs), "--dry-run", "--", "true",
        JAVA_HOME=str(theirs),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{store} stays as it is" in done.stderr
    assert "the command may write it" in done.stderr


@pytest.mark.parametrize("words", [["--read"], ["--allow"], ["--no-sandbox"]])
def test_the_key_must_be_out_of_the_commands_reach(words, sessions, own) -> None:
    granted = [*words, str(own[1].parent)] if words != ["--no-sandbox"] else words
    done = run(sessions, *intercepting(own), *granted, "--", "true")
    assert done.returncode == 2
    assert "--tls-ca-key: expected a key that the command can't read" in done.stderr
    assert "hint: move it" in done.stderr


PLACES = {
    "Fedora": (
        "mkdir -p pki/tls/certs pki/ca-trust/extracted/pem && cp $ROOTS"
        " pki/ca-trust/extracted/pem/tls-ca-bundle.pem && ln -s"
        " /etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem pki/tls/certs/ca-bundle.crt && ln -s"
        " certs/ca-bundle.crt pki/tls/cert.pem",
        ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/tls/cert.pem"],
    ),
    "Alpine": (
        "mkdir ssl/certs && cp $ROOTS ssl/certs/ca-certificates.crt && ln -s"
        " certs/ca-certificates.crt ssl/cert.pem",
        ["/etc/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt"],
    ),
}


@needs_system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root lays out another system's /etc")
@pytest.mark.parametrize("system", PLACES)
def test_the_places_of_another_system_have_it_too(system, sessions, own, tmp_path) -> None:
    """Its files are links to a file in a directory that Debian has not."""
    make, places = PLACES[system]
    prefix = (
        f"set -e; cp -a /etc {tmp_path}/etc; cd {tmp_path}/etc; ROOTS={SYSTEM}; rm -rf ssl/certs;"
        f' {make}; mount --bind {tmp_path}/etc /etc; cd /; exec "$@"'
    )
    done = run(
        sessions, *intercepting(own), "--isolation", "namespace", "--read-file", str(own[0]),
        "--", SYSTEM_PYTHON, "-c", COUNT, str(own[0]), *places,
        prefix=["unshare", "-m", "sh", "-c", prefix, "sh", NONO_TRIO],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["holds"] == [True] * 3  # each place is the whole bundle


def test_a_closed_directory_of_the_system_stays_closed(sessions, own) -> None:
    """Its file can't be mounted over; the variables still lead to the bundle."""
    done = run(
        sessions, *intercepting(own), "--isolation", "namespace", "--deny", "/etc/ssl",
        "--", SYSTEM_PYTHON, "-c", COUNT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_directory_of_ours_that_is_granted_is_not_used(sessions, own) -> None:
    """Else the bundle would need a mount point among the host's files."""
    os.makedirs("/run/nono-trio", exist_ok=True)
    done = run(
        sessions, *intercepting(own), "--isolation", "namespace", "--read", "/run",
        "--", SYSTEM_PYTHON, "-c", COUNT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["variables"]["SSL_CERT_FILE"].startswith("/tmp/")


def test_no_network_at_all_is_no_interception(sessions) -> None:
    done = sessions.run("--block-net", "--", SYSTEM_PYTHON, "-c", SHOW)
    assert "SSL_CERT_FILE" not in variables(done)
