"""A FUSE file system with one program, which stops answering when a test asks for it.

It reads the requests and keeps them, as a network's file system does whose server has gone: a
process that waits for an answer can't be killed. Needs root and /dev/fuse.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME: Final = "program"
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_FLUSH, _INIT, _INTERRUPT, _BATCH_FORGET = 25, 26, 36, 42
_SILENT: Final = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_REQUEST: Final = struct.Struct("=IIQQIIII")
_FORCE, _DETACH = 1, 2  # MNT_FORCE, MNT_DETACH


class StuckFileSystem:
    """Serves until `stop` is called; then it answers reads only."""

    def __init__(self, device: int, program: bytes) -> None:
        self._device = device
        self._program = program
        self._is_stopped = False

    def stop(self) -> None:
        """From now on answer reads only."""
        self._is_stopped = True

    def serve(self) -> None:
        """Answer until unmounted."""
        while True:
            try:
                data = os.read(self._device, 1 << 20)
            except OSError:
                return
            _, operation, unique, node, *_ = _REQUEST.unpack_from(data)
            if operation in _SILENT:
                continue
            if self._is_stopped and operation != _READ:
                continue
            answer = self._answer(operation, node, data[_REQUEST.size :])
            number, body = (answer, b"") if isinstance(answer, int) else (0, answer)
            try:
                os.write(self._device, struct.pack("=IiQ", 16 + len(body), -number, unique) + body)
            except OSError:
                continue  # the asker has gone

    def _answer(self, operation: int, node: int, body: bytes) -> bytes | int:
        if operation == _INIT:
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 12, 9, 1 << 17, 1, 0, 0, 0)
        if operation == _GETATTR:
            return struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if operation == _LOOKUP and body.rstrip(b"\0") == NAME.encode():
            return struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + self._attributes(2)
        if operation == _OPEN:
            return struct.pack("=QII", 0, 0, 0)
        if operation == _READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return self._program[offset : offset + size]
        if operation == _STATFS:
            return bytes(80)
        if operation in (_FLUSH, _RELEASE):
            return b""
        return 2 if operation == _LOOKUP else 38  # ENOENT, ENOSYS

    def _attributes(self, node: int) -> bytes:
        mode, size = (0o100755, len(self._program)) if node == 2 else (0o040755, 0)
        return struct.pack(
            "=QQQQQQIIIIIIIIII",
            node,
            size,
            size // 512,
            1,
            1,
            1,
            0,
            0,
            0,
            mode,
            1,
            0,
            0,
            0,
            4096,
            0,
        )


@contextmanager
def stuck_file_system(place: Path, program: Path) -> Iterator[StuckFileSystem]:
    """Mount one with a copy of `program` at `place`; skips the test where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a FUSE file system")
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"needs /dev/fuse: {error.strerror}")
    library = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    if library.mount(b"stuck", bytes(place), b"fuse.stuck", 0, options.encode()) != 0:
        os.close(device)
        pytest.skip(f"needs to mount FUSE: {os.strerror(ctypes.get_errno())}")
    served = StuckFileSystem(device, program.read_bytes())
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        library.umount2(bytes(place), _FORCE)  # every request ends with an error
        library.umount2(bytes(place), _DETACH)
        thread.join(10)
        os.close(device)
