"""Key files, references to keys, and signers that are commands."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys

import file_keyring
import keyring
import pytest
import signed_session as signed
from harness import RUN_SECONDS, has_ended, wait_until

from nono_trio.audit.keys import key_store, signer
from nono_trio.audit.keys.signature import is_ed25519, is_p256
from nono_trio.core.proof.public_keys import parse_public_keys
from nono_trio.errors import UsageError

ENVIRONMENT = {"PATH": os.environ["PATH"]}


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def key(state):
    key_store.generate(key_store.key_path(state, "default"))
    return key_store.key_path(state, "default")


def test_a_key_file_is_private_and_never_replaced(state, key):
    assert os.stat(key).st_mode & 0o777 == 0o600
    assert os.stat(key.parent).st_mode & 0o777 == 0o700
    before = key.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        key_store.generate(key)
    (state / "link").symlink_to(state / "elsewhere")
    with pytest.raises(UsageError, match="exists"):
        key_store.generate(state / "link")
    assert key.read_bytes() == before
    assert not (state / "elsewhere").exists()
    assert [one.name for one in key_store.stored_keys(state)] == ["default"]


def test_both_keys_sign_and_their_public_keys_are_read_back(state, key):
    found = key_store.open_signer("default", state, ENVIRONMENT)
    public = found.public
    assert parse_public_keys(public.pem().encode()) == public
    assert is_ed25519(public.note, found.sign_note(b"data"), b"data")
    assert not is_ed25519(public.note, found.sign_note(b"data"), b"other")
    assert is_p256(public.bundle, found.sign_bundle(b"data"), b"data")
    assert not is_p256(public.bundle, found.sign_bundle(b"data"), b"other")
    for one in (f"file://{key}", str(key)):
        assert key_store.open_signer(one, state, ENVIRONMENT).public == public


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_the_same_keys(key):
    """Both private keys are PKCS#8; openssl takes the first of a file."""
    text = key.read_text()
    whole = key_store.load_key("--file", str(key)).public.pem()
    for part in (text, text[text.index("-----BEGIN", 1) :]):
        done = subprocess.run(
            ["openssl", "pkey", "-pubout"], input=part, capture_output=True, text=True,
            check=True, timeout=RUN_SECONDS,
        )  # fmt: skip
        assert done.stdout in whole


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(state, key, mode):
    key.chmod(mode)
    with pytest.raises(UsageError, match="0600"):
        key_store.open_signer("default", state, ENVIRONMENT)


def test_a_key_with_a_second_name_and_no_key_are_refused(state, key, tmp_path):
    os.link(key, tmp_path / "second")
    with pytest.raises(UsageError, match="one name"):
        key_store.open_signer("default", state, ENVIRONMENT)
    os.unlink(tmp_path / "second")
    with pytest.raises(UsageError, match="there is no key other"):
        key_store.open_signer("other", state, ENVIRONMENT)
    for name in ("../x", "", ".", "a b", "x" * 65):
        with pytest.raises(UsageError):
            key_store.key_path(state, name)


def test_what_is_no_pair_of_keys_is_refused_without_a_byte_of_it(state, key):
    pem = key.read_bytes()
    second = pem.index(b"-----BEGIN", 1)
    secret = pem[40:60].decode()
    for data in (
        b"", pem[:second], pem[second:], pem[second:] + pem[:second], pem + pem, pem + b"x",
        pem[:-40], pem.replace(b"A", b"B"),
    ):  # fmt: skip
        key.write_bytes(data)
        with pytest.raises(UsageError) as caught:
            key_store.open_signer("default", state, ENVIRONMENT)
        assert secret not in caught.value.message
        assert key_store.stored_keys(state)[0].signer is None


def test_public_keys_in_other_forms_are_refused(key):
    pem = key_store.load_key("--file", str(key)).public.pem()
    half = pem.index("-----BEGIN", 1)
    assert parse_public_keys((pem[half:] + pem[:half]).encode()).pem() == pem
    der = base64.b64encode(b"\x30\x03abc").decode()
    other = f"-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n"
    for text in ("", pem[:half], pem[half:], pem + pem, pem[:half] + other, pem.replace("=", "")):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_public_keys(text.encode())


@pytest.fixture
def own_keyring(tmp_path, monkeypatch):
    monkeypatch.setenv(file_keyring.FILE, str(tmp_path / "keyring.json"))
    before = keyring.get_keyring()
    keyring.set_keyring(file_keyring.Keyring())
    yield
    keyring.set_keyring(before)


@pytest.mark.usefixtures("own_keyring")
def test_a_key_of_the_keyring(state, key, monkeypatch):
    keyring.set_password("nono-trio", "alice", key.read_text())
    found = key_store.open_signer("keyring://nono-trio/alice", state, ENVIRONMENT)
    assert found.public == key_store.load_key("--file", str(key)).public
    for wrong in ("keyring://nono-trio/bob", "keyring://nono-trio", "keyring:///"):
        with pytest.raises(UsageError):
            key_store.open_signer(wrong, state, ENVIRONMENT)
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(UsageError, match="needs the package keyring"):
        key_store.open_signer("keyring://nono-trio/alice", state, ENVIRONMENT)


def command(tmp_path, key, before=""):
    script = signed.signing_command(tmp_path, key, before)
    return key_store.open_signer(f"cmd://{script}", tmp_path / "state", ENVIRONMENT)


def test_a_command_signs(tmp_path, key):
    found = command(tmp_path, key)
    public = found.public
    assert public == key_store.load_key("--file", str(key)).public
    data = os.urandom(300_000)  # more than a pipe holds
    assert is_ed25519(public.note, found.sign_note(data), data)
    assert is_p256(public.bundle, found.sign_bundle(b"x"), b"x")


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ("if what != 'public': raise SystemExit(3)", "exit code 3"),
        ("if what != 'public': data += b'!'", "no signature of its Ed25519 key"),
        ("if what != 'public': print('x' * 1_000_000); raise SystemExit", "printed more than"),
        ("if what != 'public': raise SystemExit", "no signature"),
    ],
)
def test_a_command_that_gives_no_signature(tmp_path, key, before, told):
    found = command(tmp_path, key, before)
    with pytest.raises(signer.SignerFailed, match=told):
        found.sign_note(b"data")


def test_a_command_that_hangs_is_killed_with_all_that_it_started(tmp_path, key, monkeypatch):
    marker, hangs = tmp_path / "child", tmp_path / "hangs"
    signs = signed.signing_command(tmp_path, key)
    hang = f"sleep 600 &\necho $! >{marker}\nwait\n"
    hangs.write_text(f'#!/bin/sh\n[ "$1" = public ] && exec {signs} public\n{hang}')
    hangs.chmod(0o700)
    found = key_store.open_signer(f"cmd://{hangs}", tmp_path / "state", ENVIRONMENT)
    monkeypatch.setattr(signer, "SIGN_SECONDS", 2.0)  # a shell needs milliseconds
    with pytest.raises(signer.SignerFailed, match="did not end within"):
        found.sign_note(b"data")
    child = int(marker.read_text())
    wait_until(lambda: has_ended(child), "the end of what the signer started")


def test_commands_that_can_not_be_used(tmp_path, state):
    for reference, told in (
        ("cmd://", "expected a command line"), ("cmd://'", "expected a command line"),
        ("cmd://no-such-program-of-ours", "no program"), ("cmd:///bin/false", "exit code 1"),
        ("cmd:///bin/echo hello", "expected two public keys"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=told):
            key_store.open_signer(reference, state, ENVIRONMENT)


def test_a_key_that_the_command_can_read_is_refused(state, key):
    with pytest.raises(UsageError, match="can't read"):
        key_store.open_signer("default", state, ENVIRONMENT, lambda _path: "--read /")
