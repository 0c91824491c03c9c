"""The RFC 6962 tree against its recursive definition, and against the RFC's known roots."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.proof import tree
from nono_trio.core.proof.accumulator import EMPTY_ROOT

# Leaves and roots that Certificate Transparency's own tests use.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
HASHED = [tree.leaf_hash(bytes([n % 256, n // 256])) for n in range(130)]
SIZES = st.integers(1, len(HASHED))


def split(count):
    return 1 << ((count - 1).bit_length() - 1)


def root_of(leaves):
    """The definition in RFC 6962, 2.1."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return hashlib.sha256(b"\x01" + root_of(leaves[:k]) + root_of(leaves[k:])).digest()


def path_of(m, leaves):
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path_of(m, leaves[:k]), root_of(leaves[k:])]
    return [*path_of(m - k, leaves[k:]), root_of(leaves[:k])]


def subproof(m, leaves, whole=True):
    """RFC 6962, 2.1.2."""
    if m == len(leaves):
        return [] if whole else [root_of(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), root_of(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), root_of(leaves[:k])]


@pytest.mark.parametrize("size", ROOTS)
def test_the_known_roots(size):
    leaves = [*map(tree.leaf_hash, LEAVES[:size])]
    assert tree.tree_root(leaves).hex() == ROOTS[size]


@pytest.mark.parametrize("size", range(len(HASHED) + 1))
def test_the_frontier_has_the_root_at_every_size(size):
    frontier = tree.Frontier()
    frontier.extend(HASHED[:size])
    assert frontier.root() == tree.tree_root(HASHED, 0, size) == root_of(HASHED[:size])
    assert len(frontier) == size


@given(st.data(), SIZES)
def test_inclusion_as_the_definition_has_it(data, size):
    index = data.draw(st.integers(0, size - 1))
    proof = tree.prove_inclusion(HASHED, index, size)
    root = root_of(HASHED[:size])
    assert proof == path_of(index, HASHED[:size])
    assert tree.includes(HASHED[index], index, size, proof, root)
    assert not tree.includes(HASHED[index], index, size, [*proof, root], root)
    assert not proof or not tree.includes(HASHED[index], index, size, proof[:-1], root)
    assert not tree.includes(tree.leaf_hash(b"other"), index, size, proof, root)
    assert not tree.includes(HASHED[index], index, size, proof, root[::-1])
    other = data.draw(st.integers(-1, size + 1))
    assert tree.includes(HASHED[index], other, size, proof, root) is (other == index)


@given(st.data(), SIZES)
def test_consistency_as_the_definition_has_it(data, new):
    old = data.draw(st.integers(1, new))
    proof = tree.prove_consistency(HASHED, old, new)
    before, after = root_of(HASHED[:old]), root_of(HASHED[:new])
    assert proof == subproof(old, HASHED[:new])
    assert tree.is_consistent(old, new, proof, before, after)
    assert not tree.is_consistent(old, new, [*proof, after], before, after)
    assert not tree.is_consistent(old, new, proof, before[::-1], after)
    assert not tree.is_consistent(old, new, proof, before, after[::-1])
    if proof:
        assert not tree.is_consistent(old, new, proof[1:], before, after)
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], proof[place][::-1], *proof[place + 1 :]]
        assert not tree.is_consistent(old, new, changed, before, after)


def test_sizes_without_a_proof_are_refused():
    for index, size in ((0, 0), (-1, 3), (3, 3), (0, 131)):
        with pytest.raises(IndexError):
            tree.prove_inclusion(HASHED, index, size)
    for old, new in ((0, 3), (4, 3), (1, 131)):
        with pytest.raises(IndexError):
            tree.prove_consistency(HASHED, old, new)
    assert not tree.is_consistent(0, 3, [], EMPTY_ROOT, root_of(HASHED[:3]))
    assert not tree.is_consistent(4, 3, [], HASHED[0], HASHED[0])
    assert not tree.includes(HASHED[0], 0, 1, [HASHED[0]] * 5000, HASHED[0])
