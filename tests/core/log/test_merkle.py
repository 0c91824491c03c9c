from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import LOGS, VECTORS, leaves, load

from nono_trio.core.log import merkle
from nono_trio.core.log.record import leaf_hash
from nono_trio.core.proof.accumulator import EMPTY_ROOT

LEAVES = [hashlib.sha256(str(n).encode()).digest() for n in range(200)]


def accumulated(some_leaves):
    accumulator = merkle.MerkleAccumulator()
    accumulator.extend(some_leaves)
    assert len(accumulator) == len(some_leaves)
    return accumulator.root()


@pytest.mark.parametrize("log", LOGS)
def test_roots_and_proofs_of_upstream_logs(log):
    log_leaves = leaves(log)
    assert merkle.merkle_root(log_leaves).hex() == load(log, "integrity.json")["merkle_root"]
    lines = (VECTORS / log / "proofs.ndjson").read_bytes().splitlines()
    assert len(lines) == len(log_leaves)
    for index, line in enumerate(lines):
        assert msgspec.json.encode(merkle.prove(log_leaves, index)) == line


def test_merkle_vectors():
    vectors = load("merkle.json")
    assert EMPTY_ROOT.hex() == vectors["empty_root"] == accumulated([]).hex()
    for size, expected in vectors["n"].items():
        count = int(size)
        counted = [leaf_hash(json.dumps({"i": i}).replace(" ", "").encode()) for i in range(count)]
        assert accumulated(counted).hex() == expected["root"]
        assert msgspec.to_builtins(merkle.prove(counted, count - 1)) == expected["proof_last"]
        assert msgspec.to_builtins(merkle.prove(counted, count // 2)) == expected["proof_mid"]


@given(st.lists(st.integers(0, 150), max_size=8), st.booleans())
def test_leaves_may_come_in_any_pieces(pieces, is_asked):
    """One by one, some at a time, and with the root asked for between them or not."""
    many = [hashlib.sha256(bytes([n % 256, n // 256])).digest() for n in range(sum(pieces))]
    accumulator, end = merkle.MerkleAccumulator(), 0
    for number, count in enumerate(pieces):
        begin, end = end, end + count
        if number % 2:
            accumulator.extend(iter(many[begin:end]))
        else:
            for leaf in many[begin:end]:
                accumulator.append(leaf)
        assert len(accumulator) == end
        if is_asked:
            assert accumulator.root() == merkle.merkle_root(many[:end])
    assert accumulator.root() == merkle.merkle_root(many)


def test_the_published_five_leaf_proof():
    vector = load("audit_alpha_vectors.json")["inclusion_proof"]
    five = [bytes.fromhex(leaf) for leaf in vector["leaf_hashes"]]
    assert msgspec.to_builtins(merkle.prove(five, vector["leaf_index"])) == vector["proof"]


def test_the_accumulator_agrees_with_the_definition_for_every_size():
    accumulator = merkle.MerkleAccumulator()
    for size in range(201):
        assert accumulator.root() == merkle.merkle_root(LEAVES[:size])
        if size < 200:
            accumulator.append(LEAVES[size])


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=80))
def test_any_leaves_have_one_root(some_leaves):
    assert accumulated(some_leaves) == merkle.merkle_root(some_leaves)


def test_every_proof_of_every_small_tree_holds_and_holds_for_its_own_index_only():
    for size in range(1, 41):
        for index in range(size):
            proof = merkle.prove(LEAVES[:size], index)
            assert merkle.check_proof(proof)
            for other in range(size + 1):
                moved = msgspec.structs.replace(proof, leaf_index=other)
                # two places of one tree can share the sides; the hashes tell them apart
                assert merkle.check_proof(moved) == (other == index) or _same_sides(
                    index, other, size
                )


def _same_sides(index, other, size):
    return merkle.sibling_sides(index, size) == merkle.sibling_sides(other, size)


def test_a_changed_proof_does_not_hold():
    proof = merkle.prove(LEAVES[:11], 6)
    for place, step in enumerate(proof.siblings):
        flipped = f"{int(step.hash[0], 16) ^ 1:x}{step.hash[1:]}"
        turned = "left" if step.direction == "right" else "right"
        for changed in (
            msgspec.structs.replace(step, hash=flipped),
            msgspec.structs.replace(step, direction=turned),
            msgspec.structs.replace(step, hash=step.hash[:-1]),
            msgspec.structs.replace(step, hash=" " + step.hash[:-1]),
        ):
            steps = [*proof.siblings[:place], changed, *proof.siblings[place + 1 :]]
            assert not merkle.check_proof(msgspec.structs.replace(proof, siblings=steps))
    assert not merkle.check_proof(msgspec.structs.replace(proof, siblings=proof.siblings[:-1]))
    assert not merkle.check_proof(msgspec.structs.replace(proof, leaf_hash="zz"))
    assert not merkle.check_proof(msgspec.structs.replace(proof, merkle_root="0" * 64))


def test_there_is_no_proof_outside_the_tree():
    for index in (-1, 3):
        with pytest.raises(IndexError):
            merkle.prove(LEAVES[:3], index)
