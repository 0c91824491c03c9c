"""--tls-ca-cert and --tls-ca-key: a key that others can read is refused, with a hint that works."""

from __future__ import annotations

import datetime
import os
import subprocess

import pytest
from msgspec.structs import replace
from own_ca import write_authority

from nono_trio.config.options import HostFiles, NetworkOptions
from nono_trio.errors import UsageError
from nono_trio.proxy.intercept.root_store import system_file
from nono_trio.sandbox.filesystem.plan import FilePlan, Grant
from nono_trio.session.opened_files import OpenedFiles
from nono_trio.session.trust.own_authority import (
    read_host_files,
    read_own_authority,
    read_upstream_ca,
)
from nono_trio.session.trust.session_trust import open_session_trust

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def network(tmp_path) -> NetworkOptions:
    certificate, key = write_authority(tmp_path)
    return NetworkOptions(tls_ca_cert=str(certificate), tls_ca_key=str(key))


def test_an_authority_of_ones_own_is_read(network) -> None:
    authority = read_own_authority(network, NOW)
    assert authority is not None
    with open(network.tls_ca_cert, "rb") as file:
        assert authority.pem() == file.read()


def test_no_hint_moves_a_device_out_of_the_grants(network) -> None:
    network = replace(network, tls_ca_key="/dev/null")
    with pytest.raises(UsageError, match="can't be read: expected a file") as error:
        read_own_authority(network, NOW, lambda _path: "group:devices /dev/null")
    assert error.value.hint == "look at it: ls -l /dev/null"


def test_a_chain_that_no_handshake_could_load_ends_the_start(network) -> None:
    with open(network.tls_ca_cert, "rb+") as file:
        file.write(file.read() * 100)
    with pytest.raises(UsageError, match=r"--tls-ca-cert: expected at most 57344 bytes"):
        read_own_authority(network, NOW)


def test_without_the_flags_there_is_none() -> None:
    assert read_own_authority(NetworkOptions(), NOW) is None


@pytest.mark.parametrize("missing", ["tls_ca_cert", "tls_ca_key"])
def test_one_flag_needs_the_other(missing, network) -> None:
    with pytest.raises(UsageError, match="needs --tls-ca"):
        read_own_authority(replace(network, **{missing: None}), NOW)


def replace_by_pipe(key: str) -> None:
    os.unlink(key)
    os.mkfifo(key, 0o600)


SPOILED = {
    r"\(0600\), got .* with 0640": lambda key: os.chmod(key, 0o640),
    "one name, got .* with 2": lambda key: os.link(key, key + ".other"),
    "can't be read: expected a file": replace_by_pipe,
    "can't be read: No such file": os.unlink,
}


@pytest.mark.parametrize("sentence", SPOILED)
def test_a_key_that_is_not_the_users_alone_is_refused(sentence, network) -> None:
    SPOILED[sentence](network.tls_ca_key)
    with pytest.raises(UsageError, match=sentence) as error:
        read_own_authority(network, NOW)
    assert error.value.hint
    if "0600" in sentence:
        subprocess.run(error.value.hint, shell=True, check=True)
        assert read_own_authority(network, NOW) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_key_of_another_user_is_refused(network) -> None:
    os.chown(network.tls_ca_key, 65534, 65534)
    with pytest.raises(UsageError, match="of another user"):
        read_own_authority(network, NOW)


def test_a_key_that_the_command_could_read_is_refused(network) -> None:
    with pytest.raises(UsageError, match=r"the command can't read, got .*, which --read /x opens"):
        read_own_authority(network, NOW, lambda _path: "--read /x")


def test_no_error_has_the_key(network, tmp_path) -> None:
    _, another = write_authority(tmp_path, "another")
    text = another.read_bytes()
    for data in (text, text[:-40], b"secret-text"):
        with open(network.tls_ca_key, "wb") as file:
            file.write(data)
        with pytest.raises(UsageError) as error:
            read_own_authority(network, NOW)
        said = f"{error.value} {error.value.hint}"
        assert not any(line in said for line in data.decode().split("\n") if len(line) > 8)


def test_roots_for_upstreams_are_read(network, tmp_path) -> None:
    assert len(read_upstream_ca(network.tls_ca_cert)) == 1
    assert read_upstream_ca(None) == []
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(UsageError, match="--upstream-ca: expected certificates in PEM"):
        read_upstream_ca(str(tmp_path / "empty.pem"))


ROOTS = {
    "--upstream-ca": read_upstream_ca,
    "network.tls_ca": lambda path, may_write: read_host_files(
        {"a.example": HostFiles(path, None, None)}, {}, may_write=may_write
    ),
}


@pytest.mark.parametrize("flag", ROOTS)
def test_roots_that_the_command_may_write_are_refused(flag, network, tmp_path, monkeypatch) -> None:
    """An earlier command could have put a root of its own there."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = str(network.tls_ca_cert)
    sentence = f"^{flag}: expected a file that the command can't write, got {path}"
    with pytest.raises(UsageError, match=sentence) as error:
        ROOTS[flag](path, lambda one: one == path)
    subprocess.run((error.value.hint or "").partition(": ")[2], shell=True, check=True)
    copy = tmp_path / "home" / ".nono-trio-roots" / os.path.basename(path)
    assert ROOTS[flag](str(copy), lambda one: one == path)


def test_a_session_asks_about_every_file_with_roots(network) -> None:
    asked: list[str] = []
    path = network.tls_ca_cert
    network = NetworkOptions(
        upstream_ca=path, host_files={"a.example": HostFiles(path, None, None)}
    )
    open_session_trust(
        network, {"SSL_CERT_FILE": "/own.pem"}, may_write=lambda one: asked.append(one) is not None
    )
    system = system_file()
    assert asked == [path, path, *([] if system is None else [system]), "/own.pem"]


def test_a_link_in_a_directory_that_the_command_may_write_is_as_the_file(tmp_path) -> None:
    """The command could lead it elsewhere."""
    (tmp_path / "open").mkdir()
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "open" / "link.pem").symlink_to(tmp_path / "ca.pem")
    (tmp_path / "there").symlink_to(tmp_path / "open" / "link.pem")
    opened = str(tmp_path / "open")
    grant = Grant(opened, "readwrite", is_file=False, source="--allow")
    plan = FilePlan((grant,), (), (), (), "/", "/")
    may_write = OpenedFiles(plan, sandbox=True).may_write
    assert may_write(f"{opened}/link.pem")
    assert may_write(str(tmp_path / "there"))
    assert may_write(f"{opened}/new.pem")
    assert not may_write(str(tmp_path / "ca.pem"))
    assert not OpenedFiles(plan, sandbox=False).may_write(f"{opened}/link.pem")


@pytest.mark.parametrize(("access", "expected"), [("readwrite", True), ("read", False)])
def test_a_second_name_may_be_in_what_is_granted_for_writing(access, expected, tmp_path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "ca.pem").write_text("")
    os.link(tmp_path / "ca.pem", tmp_path / "open" / "other.pem")
    grant = Grant(str(tmp_path / "open"), access, is_file=False, source="--allow")
    plan = FilePlan((grant,), (), (), (), "/", "/")
    assert OpenedFiles(plan, sandbox=True).may_write(str(tmp_path / "ca.pem")) is expected


# -- files of single hosts ------------------------------------------------------------------------


@pytest.fixture
def files(network) -> HostFiles:
    certificate, key = str(network.tls_ca_cert), f"file://{network.tls_ca_key}"
    return HostFiles(certificate, certificate, key)


def test_the_files_of_a_host_are_read(files, network) -> None:
    found = read_host_files({"a.example": files}, {})["a.example"]
    with open(network.tls_ca_key, "rb") as file:
        assert found.key == file.read()
    assert found.ca == found.certificate
    assert "PRIVATE" not in repr(found)


def test_a_key_may_come_from_a_variable(files, network) -> None:
    with open(network.tls_ca_key, encoding="ascii") as file:
        environment = {"CLIENT_KEY": file.read()}
    found = read_host_files({"a.example": replace(files, key="env://CLIENT_KEY")}, environment)
    assert found["a.example"].key == environment["CLIENT_KEY"].strip().encode()


def test_files_that_do_not_go_together_are_refused(files, network, tmp_path) -> None:
    _, another = write_authority(tmp_path, "another")
    for broken, sentence in (
        (replace(files, key=None), r"network\.client_cert and network\.client_key for a\.example"),
        (replace(files, key=f"file://{another}"), r"TLS files for a\.example can't be used"),
        (replace(files, ca=str(network.tls_ca_key)), r"TLS files for a\.example can't be used"),
        (replace(files, key="env://MISSING"), "is not set"),
    ):
        with pytest.raises(UsageError, match=sentence):
            read_host_files({"a.example": broken}, {})


def test_a_hosts_key_must_be_out_of_the_commands_reach(files) -> None:
    with pytest.raises(UsageError, match=r"network\.client_key: expected a key that the command"):
        read_host_files({"a.example": files}, {}, lambda _path: "--read /x")
