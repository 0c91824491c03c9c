"""Signed notes, checkpoints and proof files: vectors, and what a forger may send."""

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.proof import base64_text, note, proof_file, tree_head

# The example in the documentation of golang.org/x/mod/sumdb/note.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
SIGNED = (
    f"{TEXT}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqf"
    "qdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
HEAD = tree_head.TreeHead("nono-trio/0123456789abcdef", 7, bytes(range(32)))
NOTE = note.encode_note(HEAD.encode(), [note.Signature(HEAD.origin, b"abcd", b"s" * 64)]).encode()
PROOF = proof_file.ProofFile(3, (bytes(32), b"\xff" * 32), NOTE, b'{"type":"x"}')


def is_signed(data):
    """Whether a note is one, and signed by the key of the vector."""
    name, key = note.parse_verifier_key(VKEY)
    try:
        found = note.parse_note(data)
    except ValueError:
        return False
    signature = found.signature_of(name, key)
    if signature is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, found.text.encode())
    except InvalidSignature:
        return False
    return True


def test_the_note_of_gos_documentation_verifies():
    name, key = note.parse_verifier_key(VKEY)
    assert (name, note.verifier_key(name, key)) == ("PeterNeumann", VKEY)
    assert is_signed(SIGNED)
    found = note.parse_note(SIGNED)
    assert found.text == TEXT
    assert note.encode_note(found.text, list(found.signatures)).encode() == SIGNED


def test_every_changed_byte_and_every_cut_of_a_note_is_refused():
    for place in range(len(SIGNED)):
        for bit in (1, 0x20, 0x80):
            changed = bytearray(SIGNED)
            changed[place] ^= bit
            assert not is_signed(bytes(changed)), (place, bit)
        assert not is_signed(SIGNED[:place])
    for tail in (b"\n", b" ", b"x", b"\0", SIGNED):
        assert not is_signed(SIGNED + tail)


def test_signatures_of_others_do_not_matter():
    found = note.parse_note(SIGNED)
    others = [note.Signature(f"witness{n}", b"wit%d" % n, b"signature") for n in range(16)]
    both = note.encode_note(found.text, [*others, *found.signatures]).encode()
    assert is_signed(both)
    assert len(note.parse_note(both).signatures) == 17


@pytest.mark.parametrize("data", [
    b"", b"\n", b"text\n", b"text\n\n", b"text\n\n\xe2\x80\x94 name\n",
    b"text\n\n- name AAAAAAA=\n",
    "text\n\n— na+me AAAAAAAA\n".encode(), "text\n\n— name AAAAAAAA \n".encode(),
    "text\n\n—  AAAAAAAA\n".encode(), "text\n\n— na\u2003me AAAAAAAA\n".encode(),
    "text\r\n\n— name AAAAAAAA\n".encode(), "text\n\n— name AAAAAAAA".encode(),
    "text\n\n— name AAAAAA==\n".encode(), "text\n\n— name AAAAAAB=\n".encode(),
    "text\n\n— name AAAAAAAA\n— name AAAAAAAA\n".encode(), b"\xff" + SIGNED, b"x" * 70_000 + SIGNED,
    b"text\n\n" + "— name AAAAAAAA\n".encode() * 101,
])  # fmt: skip
def test_what_is_no_note_is_refused(data):
    with pytest.raises(ValueError):  # noqa: PT011  (any of them)
        note.parse_note(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_note_or_a_value_error(data):
    for parse in (note.parse_note, proof_file.parse_proof):
        try:
            parse(data)
        except ValueError:
            continue


@pytest.mark.parametrize("text", [
    "", "name", "name+00000000+", VKEY[:-1], VKEY + "\n", VKEY.replace("c74f", "c74e"),
    VKEY.replace("Peter", "Pater"), VKEY.replace("+ARpc", "+AhpC"),
])  # fmt: skip
def test_what_is_no_verifier_key_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        note.parse_verifier_key(text)


def test_a_tree_head_has_one_spelling():
    text = HEAD.encode()
    assert tree_head.parse_tree_head(text) == HEAD
    assert text.startswith("nono-trio/0123456789abcdef\n7\n")
    for wrong in (
        "", text[:-1], text + "more\n", text + "\n", text.replace("\n7\n", "\n07\n"),
        text.replace("\n7\n", "\n-7\n"), text.replace("\n7\n", "\n\u0667\n"),
        text.replace("\n7\n", f"\n{2**63}\n"), text.replace("nono-trio/", "nono trio/"),
        text.replace("=\n", "\n"), text.replace("\n7\n", "\n\n7\n"),
    ):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011
            tree_head.parse_tree_head(wrong)


def test_origins():
    assert tree_head.session_of(tree_head.session_origin("abc")) == "abc"
    assert tree_head.session_of("nono-trio/ledger/0011") is None
    assert tree_head.session_of("example.com/log") is None


def test_a_proof_file_has_one_spelling():
    data = PROOF.encode()
    assert data.startswith(b"c2sp.org/tlog-proof@v1\nextra eyJ0eXBlIjoieCJ9\nindex 3\nAAAA")
    assert data.endswith(b"\n\n" + NOTE)
    assert proof_file.parse_proof(data) == PROOF
    without = PROOF._replace(extra=None, hashes=())
    assert proof_file.parse_proof(without.encode()) == without
    head = len(data) - len(NOTE)
    for place in range(head):
        changed = bytearray(data)
        changed[place] ^= 1
        try:
            assert proof_file.parse_proof(bytes(changed)) != PROOF
        except ValueError:
            continue
    for wrong in (
        data[: head - 1], data[:head], data.replace(b"index 3", b"index 03"),
        data.replace(b"index 3\n", b"index 3\nindex 3\n"), data.replace(b"@v1", b"@v2"),
        data.replace(b"\nAAAA", b"\n AAA"), data.replace(b"extra ", b"extra  "),
        b"c2sp.org/tlog-proof@v1\nindex 3\n" + b"A" * 43 + b"=\n" * 1 + b"\n",
    ):  # fmt: skip
        with pytest.raises(ValueError):  # noqa: PT011
            proof_file.parse_proof(wrong)


def test_base64_has_one_spelling():
    assert base64_text.decode("AAE=") == b"\0\x01"
    for wrong in ("AAF=", "AAE", "AAE=\n", " AAE=", "AA-_", "é", "A==="):
        with pytest.raises(ValueError):  # noqa: PT011
            base64_text.decode(wrong)
    with pytest.raises(ValueError, match="32 bytes"):
        base64_text.decode_hash("AAE=")
