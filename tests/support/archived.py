"""Archives of sessions, made by the writer and read by the standard library."""

from __future__ import annotations

import io
import tarfile

import crashed_session
import sealed_session as made
import signed_session

from nono_trio.audit.archive.tar_format import members
from nono_trio.audit.archive.write import write_archive
from nono_trio.audit.recovery.recover import recover

ID = "0123456789abcdef"


def sealed(root):
    return made.build(root, ID, flows=[made.flow(3)])


def recovered(root):
    directory = crashed_session.torn_everywhere(root)
    assert recover(directory).outcome == "recovered"
    return directory


def signed(root):
    return signed_session.sealed(root, signed_session.signer())


KINDS = [sealed, recovered, signed]


def archive_of(directory):
    """The bytes of a session's archive."""
    file = io.BytesIO()
    write_archive(directory, file)
    return file.getvalue()


def archive_file(tmp_path, directory, name="session.tar"):
    path = tmp_path / name
    path.write_bytes(archive_of(directory))
    return path


def parts(data):
    """The files of an archive, as the standard library reads them: {name: bytes}."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {one.name: archive.extractfile(one).read() for one in archive}


def plain_member(name, data=b""):
    """A member as an archive has it; tests change it."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o600, 0
    return member


def packed(members_and_data, form=tarfile.USTAR_FORMAT):
    """The bytes of a tar with these members, in one form of tar, with our end."""
    blocks = []
    for member, data in members_and_data:
        blocks += [member.tobuf(form), data, bytes(-len(data) % 512)]
    return b"".join(blocks) + bytes(1024)


def repacked(files):
    """The archive with these files: {name: bytes}."""
    return packed([(plain_member(name, data), data) for name, data in files.items()])


def read_through(data, path, session_id=ID):
    """Read an archive as `unpack` does, without writing."""
    file = io.BytesIO(data)
    return [(one.name, file.read(one.size)) for one in members(file, path, session_id)]
