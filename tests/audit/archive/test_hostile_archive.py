"""Tars that are no archive of ours: each is refused before a byte of it is believed."""

from __future__ import annotations

import functools
import gzip
import os
import pathlib
import resource
import tarfile
import tempfile

import archived
import pytest
from archived import ID, archive_of, packed, parts, plain_member, read_through, repacked
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.audit import store
from nono_trio.audit.archive import tar_format
from nono_trio.audit.archive.import_session import import_archive
from nono_trio.audit.archive.unpack import unpack
from nono_trio.audit.archive.verify import verify_archive
from nono_trio.errors import LogUnreadable

PATH = pathlib.Path("session.tar")
FLOWS = f"{ID}/{store.FLOWS}"


@functools.cache
def good():
    """The bytes of a small archive of a signed session."""
    with tempfile.TemporaryDirectory() as directory:
        return archive_of(archived.signed(pathlib.Path(directory, "audit")))


def as_members(files):
    return [(plain_member(name, data), data) for name, data in files.items()]


def changed(which=FLOWS, **fields):
    """The archive with other fields in one header, its checksum right."""
    members = as_members(parts(good()))
    for member, _ in members:
        if member.name == which:
            for field, value in fields.items():
                setattr(member, field, value)
    return packed(members)


def instead(member, data=b"", form=tarfile.USTAR_FORMAT):
    """The archive with another member in the place of one file."""
    files = parts(good())
    return packed(
        [(member, data) if name == FLOWS else (plain_member(name, got), got)
         for name, got in files.items()],
        form,
    )  # fmt: skip


def with_type(kind, **fields):
    return lambda: changed(type=kind, **fields)


def sparse_as_gnu_writes_it():
    member = plain_member(FLOWS, bytes(512))
    member.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": FLOWS,
        "GNU.sparse.realsize": str(1 << 50),
    }  # fmt: skip
    return instead(member, bytes(512), tarfile.PAX_FORMAT)


def pax_path():
    member = plain_member(FLOWS)
    member.pax_headers = {"path": "../../escaped"}
    return instead(member, form=tarfile.PAX_FORMAT)


def pax_size():
    member = plain_member(FLOWS)
    member.pax_headers = {"size": str(1 << 60)}
    return instead(member, form=tarfile.PAX_FORMAT)


def long_name():
    return instead(plain_member(f"{ID}/{'a' * 200}"), form=tarfile.GNU_FORMAT)


def twice():
    members = as_members(parts(good()))
    return packed([*members, members[4]])


def another_order():
    members = as_members(parts(good()))
    return packed([members[0], *members[:0:-1]])


def without(name):
    return lambda: repacked({k: v for k, v in parts(good()).items() if k != f"{ID}/{name}"})


def other_manifest(**fields):
    files = parts(good())
    manifest = files[f"{ID}/{tar_format.MANIFEST}"]
    old, new = fields["old"], fields["new"]
    assert old in manifest
    return lambda: repacked(files | {f"{ID}/{tar_format.MANIFEST}": manifest.replace(old, new)})


def too_large():
    return changed(f"{ID}/{store.LEDGER_LINE}", size=65_537)


def base_256_size():
    data = bytearray(good())
    at = data.index(FLOWS.encode()) + 124
    data[at : at + 12] = b"\x80" + bytes(10) + b"\x01"
    return bytes(data)


def padding_with_bytes():
    data = bytearray(good())
    data[512 + 100] = 1  # behind archive.json
    return bytes(data)


HOSTILE = {
    "a symlink": with_type(tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": with_type(tarfile.LNKTYPE, linkname=f"{ID}/{store.LOG}"),
    "a character device": with_type(tarfile.CHRTYPE, devmajor=1, devminor=5),
    "a block device": with_type(tarfile.BLKTYPE, devmajor=8),
    "a pipe": with_type(tarfile.FIFOTYPE),
    "a directory": with_type(tarfile.DIRTYPE),
    "the old type of a file": with_type(tarfile.AREGTYPE),
    "a contiguous file": with_type(tarfile.CONTTYPE),
    "a sparse file of old GNU tar": with_type(tarfile.GNUTYPE_SPARSE),
    "a link name on a file": lambda: changed(linkname="x"),
    "an absolute path": lambda: changed(name="/etc/cron.d/x"),
    "a path upwards": lambda: changed(name=f"{ID}/../../escaped"),
    "a path with a dot": lambda: changed(name=f"./{FLOWS}"),
    "a path with two slashes": lambda: changed(name=FLOWS.replace("/", "//")),
    "a prefix of USTAR": lambda: instead(plain_member(f"{'a' * 60}/{'b' * 60}")),
    "an unknown name": lambda: changed(name=f"{ID}/authorized_keys"),
    "a name in capitals": lambda: changed(name=f"{ID}/FLOWS.NDJSON"),
    "another session's directory": lambda: changed(name=f"fedcba9876543210/{store.FLOWS}"),
    "a mode for all": lambda: changed(mode=0o644),
    "a set-uid bit": lambda: changed(mode=0o4600),
    "an owner": lambda: changed(uid=1000),
    "an owner's name": lambda: changed(uname="root"),
    "a time": lambda: changed(mtime=1),
    "sparse by pax": sparse_as_gnu_writes_it,
    "a path by pax": pax_path,
    "a size by pax": pax_size,
    "a long name by GNU": long_name,
    "a size in base 256": base_256_size,
    "a file twice": twice,
    "another order": another_order,
    "a file that is too large": too_large,
    "bytes in the padding": padding_with_bytes,
    "another version": other_manifest(old=b'"v":1', new=b'"v":2'),
    "another spelling": other_manifest(old=b'{"', new=b'{ "'),
    "a manifest of another session": other_manifest(old=ID.encode(), new=b"fedcba9876543210"),
    "no manifest": without(tar_format.MANIFEST),
    "no log": without(store.LOG),
    "no policy": without(store.POLICY),
    "no ledger line": without(store.LEDGER_LINE),
    "a byte behind it": lambda: good() + b"\0",
    "blocks behind it": lambda: good() + bytes(8192),
    "another archive behind it": lambda: good() + good(),
    "one block of zeros": lambda: good()[:-512],
    "a gzip": lambda: gzip.compress(good()),
    "nothing": lambda: b"",
    "an empty tar": lambda: bytes(1024),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(root, tmp_path, case):
    path = tmp_path / "session.tar"
    path.write_bytes(HOSTILE[case]())
    assert path.read_bytes() != good()
    answer = verify_archive(path)
    assert (answer.verdict, answer.exit_code) == ("unreadable", 2)
    assert "is no whole archive of a session" in answer.notes[0]
    assert answer.notes[0].isprintable()
    with pytest.raises(LogUnreadable):
        import_archive(path, root)
    assert not root.exists() or [*root.iterdir()] == []
    assert sorted(one.name for one in tmp_path.iterdir() if one != root) == ["session.tar"]


def test_an_archive_cut_at_any_byte_is_refused():
    data = good()
    assert [name for name, _ in read_through(data, PATH)]
    for end in range(len(data)):
        with pytest.raises(LogUnreadable, match="no whole archive"):
            read_through(data[:end], PATH)


@given(place=st.integers(0, 2**20), value=st.integers(1, 255))
def test_no_byte_of_an_archive_can_be_changed(place, value):
    """But for what a bundle has beside its signed payload, which is for tools of others."""
    data, bundle = bytearray(good()), parts(good())[f"{ID}/{store.BUNDLE}"]
    begin = data.index(bundle)
    place %= len(data) - len(bundle)
    data[place if place < begin else place + len(bundle)] ^= value
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "session.tar")
        path.write_bytes(data)
        assert verify_archive(path).verdict in ("unreadable", "tampered", "crashed")


@given(st.data())
def test_what_is_read_of_any_blocks_is_what_an_archive_has(data):
    blocks = [good()[at : at + 512] for at in range(0, len(good()), 512)]
    chosen = data.draw(st.lists(st.sampled_from(blocks), max_size=len(blocks)))
    given_bytes = b"".join(chosen) + data.draw(st.binary(max_size=600))
    try:
        found = dict(read_through(given_bytes, PATH))
    except LogUnreadable:
        return
    assert repacked({f"{ID}/{tar_format.MANIFEST}": tar_format.encode_manifest(ID)} | {
        f"{ID}/{name}": got for name, got in found.items()
    }) == given_bytes  # fmt: skip


def test_a_sparse_archive_fills_no_disk(tmp_path):
    """It costs its maker nothing; unpacked it would have taken all the space there is."""
    size, path = 256 * 1024**2, tmp_path / "session.tar"
    files = parts(good())
    manifest = files[f"{ID}/{tar_format.MANIFEST}"]
    with path.open("wb") as file:
        file.write(packed(as_members({f"{ID}/{tar_format.MANIFEST}": manifest}))[:-1024])
        bundle = files[f"{ID}/{store.BUNDLE}"]
        file.write(packed(as_members({f"{ID}/{store.BUNDLE}": bundle}))[:-1024])
        file.write(tar_format.header(f"{ID}/{store.LOG}", size))
        file.truncate(file.tell() + size)
    with path.open("rb") as file, pytest.raises(LogUnreadable):
        unpack(file, path, tmp_path)
    log = (tmp_path / ID / store.LOG).stat()
    assert log.st_size == size
    assert log.st_blocks * 512 < 1024**2


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    path, room = tmp_path / "session.tar", tmp_path / "room"
    path.write_bytes(good())
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        answer = verify_archive(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (answer.verdict, "there is no room to unpack" in answer.notes[0]) == ("unreadable", True)
    assert "TMPDIR" in answer.notes[1]
    assert [*room.iterdir()] == []


def test_a_pipe_and_a_directory_are_no_archives(run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        code, _, err = run("audit", "import", path)
        assert (code, "hint: " in err) == (2, True)


def test_the_header_is_that_of_the_standard_library():
    for size in (0, 1, 511, 512, tar_format.MAX_FILE):
        member = plain_member(f"{ID}/{store.LOG}")
        member.size = size
        assert tar_format.header(member.name, size) == member.tobuf(tarfile.USTAR_FORMAT)
