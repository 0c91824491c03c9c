"""Gives an SSL context a certificate chain and its key without a file.

Rules of this file: `ssl` takes paths only, and a key that was in a file once can be read later
from the disk, from a backup or from swap. So the bytes go through a pipe. Its pages are not
swapped. No other process can open it, because this process is not dumpable and its /proc/PID/fd is
closed. What has been read is gone. (A memfd would also do on Linux, but its pages may be swapped,
and macOS lacks it.)
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ssl

# A pipe's buffer on Linux and macOS. A leaf and its authority have 2 KiB.
PIPE_BYTES: Final = 64 * 1024


def load_chain(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Load a chain and its unencrypted key, both in PEM, into a context.

    Blocking for as long as OpenSSL parses them. Raises ssl.SSLError for what it can't use,
    ValueError for a chain that is too long, OSError where the system gives no pipe.
    """
    chain_end = _filled_pipe(chain)
    try:
        key_end = _filled_pipe(key)
        try:
            context.load_cert_chain(f"/dev/fd/{chain_end}", f"/dev/fd/{key_end}", _no_password)
        finally:
            os.close(key_end)
    finally:
        os.close(chain_end)


def _filled_pipe(data: bytes) -> int:
    """The read end of a pipe that holds `data` and has no writer any more."""
    if len(data) > PIPE_BYTES:
        raise ValueError(f"expected at most {PIPE_BYTES} bytes of PEM, got {len(data)}")
    read, write = os.pipe()
    try:
        # Its only reader is this thread, so a write must not wait.
        os.set_blocking(write, False)
        written = os.write(write, data)
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    if written != len(data):  # the kernel's limit on the pipes of this user is reached
        os.close(read)
        raise OSError(errno.EAGAIN, f"the pipe took {written} of {len(data)} bytes of PEM")
    return read


def _no_password() -> str:
    """Instead of OpenSSL's own question on the terminal, which would wait for an answer."""
    return ""
