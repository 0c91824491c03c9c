"""The roots of the machine and its user: what is read, and the notes about the rest."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from nono_trio.proxy.intercept.ca import new_authority
from nono_trio.proxy.intercept.root_store import (
    DIRECTORY_VARIABLE,
    FILE_VARIABLES,
    forget_files,
    parse_certificates,
    read_roots,
    to_pem,
)

NOW = datetime.datetime.now(datetime.UTC)
ONE, TWO, THREE = (new_authority(name, NOW) for name in ("one", "two", "three"))
DER = serialization.Encoding.DER


def der(*authorities) -> tuple[bytes, ...]:
    return tuple(one.certificate.public_bytes(DER) for one in authorities)


@pytest.fixture
def system(tmp_path) -> list[str]:
    (tmp_path / "system.crt").write_bytes(ONE.pem())
    return [str(tmp_path / "missing.crt"), str(tmp_path / "system.crt")]


def test_the_first_file_of_the_system_that_exists_is_read(system) -> None:
    assert read_roots({}, system_files=system) == (der(ONE), (), ())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"])
def test_what_the_users_variables_name_is_added_once(variable, system, tmp_path) -> None:
    (tmp_path / "own.pem").write_bytes(TWO.pem() + ONE.pem() + TWO.pem())
    roots = read_roots({variable: str(tmp_path / "own.pem")}, system_files=system)
    assert roots == (der(ONE), der(TWO), ())


@pytest.mark.parametrize(
    ("names", "read"), [(["0a1b2c3d.0", "plain.pem"], 1), (["a.pem", "b.pem"], 2)]
)
def test_directories_are_read_as_openssl_and_go_do(names, read, system, tmp_path) -> None:
    for name, authority in zip(names, (TWO, THREE), strict=True):
        (tmp_path / "certs").mkdir(exist_ok=True)
        (tmp_path / "certs" / name).write_bytes(authority.pem())
    roots = read_roots({"SSL_CERT_DIR": f"{tmp_path}/certs:/missing"}, system_files=system)
    assert roots == (der(ONE), der(TWO, THREE)[:read], ())


@pytest.mark.parametrize("content", [None, b"no certificate\n"])
def test_a_variable_that_names_nothing_is_told(content, system, tmp_path) -> None:
    path = tmp_path / "own.pem"
    if content is not None:
        path.write_bytes(content)
    roots = read_roots({"SSL_CERT_FILE": str(path)}, system_files=system)
    assert roots[:2] == (der(ONE), ())
    [note] = roots.notes
    assert "SSL_CERT_FILE" in note
    assert str(path) in note


def test_a_certificate_that_many_files_have_is_parsed_once(system, tmp_path, monkeypatch) -> None:
    forget_files()
    parsed = []
    monkeypatch.setattr(x509, "load_der_x509_certificate", parsed.append)
    (tmp_path / "certs").mkdir()
    for copy in (tmp_path / "again.pem", tmp_path / "certs" / "one.pem"):
        copy.write_bytes(Path(system[-1]).read_bytes())
    variables = {name: str(tmp_path / "again.pem") for name in FILE_VARIABLES}
    variables[DIRECTORY_VARIABLE] = str(tmp_path / "certs")
    roots = read_roots(variables, system_files=system)
    assert [*roots.system] == parsed
    assert roots.others == ()
    Path(system[-1]).write_bytes(b"")
    forget_files()
    assert read_roots({}, system_files=system).system == ()


def test_a_pipe_is_not_waited_for(system, tmp_path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert (
        len(read_roots({"SSL_CERT_FILE": str(tmp_path / "pipe")}, system_files=system).notes) == 1
    )


def test_a_file_that_the_command_may_write_is_not_used(system, tmp_path) -> None:
    """An earlier command could have put a root of its own there."""
    (tmp_path / "own.pem").write_bytes(TWO.pem())
    path = str(tmp_path / "own.pem")
    roots = read_roots(
        {"SSL_CERT_FILE": path}, system_files=system, may_write=lambda one: one == path
    )
    assert roots[:2] == (der(ONE), ())
    assert roots.notes == (f"SSL_CERT_FILE is not used: the command may write {path}",)


def test_the_systems_file_is_not_used_if_the_command_may_write_it(system, tmp_path) -> None:
    (tmp_path / "own.pem").write_bytes(TWO.pem())
    roots = read_roots(
        {"SSL_CERT_FILE": str(tmp_path / "own.pem")},
        system_files=system,
        may_write=lambda one: one == system[1],
    )
    assert roots[:2] == ((), der(TWO))
    [note] = roots.notes
    assert note == f"{system[1]} is not used to verify servers: the command may write it"


def test_a_machine_without_roots_is_told(tmp_path) -> None:
    roots = read_roots({}, system_files=[str(tmp_path / "missing")])
    assert roots[:2] == ((), ())
    assert len(roots.notes) == 1


def test_only_certificates_are_taken_from_a_file() -> None:
    """A bad entry makes some programs refuse the whole file."""
    broken = ONE.pem().replace(b"MII", b"AII", 1)
    other = b"secret=1\n-----BEGIN PRIVATE KEY-----\nMII=\n-----END PRIVATE KEY-----\n"
    assert parse_certificates(broken + other + TWO.pem() + b"-----BEGIN CERTIFICATE-----") == [
        *der(TWO)
    ]


def test_a_file_of_blanks_is_read_in_no_time() -> None:
    """An earlier command could have written it where npm's settings say. It took minutes."""
    block = b"-----BEGIN CERTIFICATE-----" + b" " * 65_000 + b"!"
    assert parse_certificates(block * 20 + ONE.pem()) == [*der(ONE)]


def test_line_ends_of_windows_are_read() -> None:
    assert parse_certificates(ONE.pem().replace(b"\n", b"\r\n")) == [*der(ONE)]


def test_pem_is_as_other_tools_write_it() -> None:
    assert to_pem(der(ONE, TWO)) == ONE.pem() + TWO.pem()


@pytest.mark.skipif(
    not Path("/etc/ssl/certs/ca-certificates.crt").exists(), reason="no ca-certificates here"
)
def test_every_root_of_this_machine_is_read() -> None:
    text = Path("/etc/ssl/certs/ca-certificates.crt").read_bytes()
    assert len(parse_certificates(text)) == text.count(b"BEGIN CERTIFICATE")
