"""Java's trust stores: the JDK's own roots stay, and the JVM reads what was written."""

from __future__ import annotations

import datetime
import hashlib
import shutil
import struct
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from nono_trio.proxy.intercept.ca import new_authority
from nono_trio.proxy.intercept.java_trust import with_authority

NOW = datetime.datetime.now(datetime.UTC)
ROOTS = [new_authority(f"root {number}", NOW).certificate for number in range(3)]
OURS = new_authority("ours", NOW)
DER = serialization.Encoding.DER
ADDED = [OURS.certificate.public_bytes(DER)]


def jks(certificates=ROOTS, version=2) -> bytes:
    """A store as a JDK makes one."""
    data = struct.pack(">4sII", b"\xfe\xed\xfe\xed", version, len(certificates))
    for number, one in enumerate(certificates):
        alias, der = f"root-{number}".encode(), one.public_bytes(DER)
        data += struct.pack(">IH", 2, len(alias)) + alias + struct.pack(">Q", 1)
        data += struct.pack(">H", 5) + b"X.509" + struct.pack(">I", len(der)) + der
    return data + digest(data)


def digest(data: bytes) -> bytes:
    keyed = "changeit".encode("utf-16-be") + b"Mighty Aphrodite" + data
    return hashlib.sha1(keyed, usedforsecurity=False).digest()


def p12(encryption) -> bytes:
    named = [pkcs12.PKCS12Certificate(one, b"%d" % at) for at, one in enumerate(ROOTS)]
    return pkcs12.serialize_java_truststore(named, encryption)


STORES = {
    "jks": jks(),
    "empty jks": jks([]),
    "pkcs12": p12(serialization.NoEncryption()),
    "encrypted pkcs12": p12(serialization.BestAvailableEncryption(b"changeit")),
}


def test_a_jks_keeps_every_byte_of_its_own_and_has_a_new_digest() -> None:
    store = with_authority(STORES["jks"], ADDED)
    assert store is not None
    assert store[12 : len(STORES["jks"]) - 20] == STORES["jks"][12:-20]
    assert struct.unpack_from(">I", store, 8) == (4,)
    assert ADDED[0] in store[len(STORES["jks"]) - 20 :]
    assert store[-20:] == digest(store[:-20])


@pytest.mark.parametrize("kind", ["pkcs12", "encrypted pkcs12"])
def test_a_pkcs12_keeps_its_roots_and_needs_no_password(kind) -> None:
    store = with_authority(STORES[kind], ADDED)
    assert store is not None
    found = {one.certificate for one in pkcs12.load_pkcs12(store, None).additional_certs}
    assert found == {*ROOTS, OURS.certificate}
    again = with_authority(store, ADDED)  # of another session, say
    assert again is not None


@pytest.mark.parametrize(
    "store",
    [
        b"", b"PEM or anything", b"\xfe\xed\xfe\xed", jks(version=1), b"\x30\x82\x01\x00",
        p12(serialization.BestAvailableEncryption(b"another password")),
    ],
    ids=["empty", "text", "cut", "version 1", "no pkcs12", "another password"],
)  # fmt: skip
def test_a_store_that_cannot_be_read_is_left_alone(store) -> None:
    assert with_authority(store, ADDED) is None


def test_a_store_with_a_key_is_left_alone() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    own = OURS.sign_leaf("a.example", key.public_key(), NOW)
    assert isinstance(own, x509.Certificate)
    store = pkcs12.serialize_key_and_certificates(
        b"own", key, own, ROOTS, serialization.NoEncryption()
    )
    assert with_authority(store, ADDED) is None


@pytest.mark.skipif(shutil.which("keytool") is None, reason="no keytool here")
@pytest.mark.parametrize("kind", ["jks", "encrypted pkcs12"])
def test_java_reads_it(kind, tmp_path) -> None:
    """With the password that every JDK ships, as when a program gives one."""
    store = with_authority(STORES[kind], ADDED)
    assert store is not None
    (tmp_path / "cacerts").write_bytes(store)
    words = ["keytool", "-J-Xshare:auto", "-list", "-keystore", tmp_path / "cacerts"]
    done = subprocess.run(
        [*words, "-storepass", "changeit"], capture_output=True, text=True, check=False, timeout=60
    )
    assert "contains 4 entries" in done.stdout, done.stdout + done.stderr
