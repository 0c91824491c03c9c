"""How much of everything a client may take: connections, time, memory; each with its reason.

The client is the caged child, so it is hostile: whatever has no limit here is a way to starve
the supervisor. Sizes of request heads live with their parser (`core.http.request_head`).
"""

from __future__ import annotations

from typing import Final

import msgspec

READ_HEAD: Final = 64 * 1024  # bytes of one read for heads; holds any head that is not refused
# Bytes of one read for bodies, and so the most that is held as plaintext for a slow peer. With what
# TLS holds beside it (transport/tls.py) a direction has less than 256 KiB.
READ_BODY: Final = 96 * 1024

# Bytes, one for the whole proxy. Copying costs 0.25 CPU s/GB with it, twice that with 64 KiB; 1 MiB
# gains less than the noise of the measurement.
RELAY_BUFFER: Final = 256 * 1024
# Bytes of the last piece from which on the next one is spliced: four system calls, which for small
# pieces cost more than to read and send them, two.
SPLICE_FROM: Final = 64 * 1024
PIPE_BYTES: Final = 1024 * 1024  # of a pipe for splice(2); what Linux lets an ordinary user have
# Of one process: a quarter of what Linux lets all pipes of an ordinary user hold (64 MiB), as other
# sessions and programs of the user need some. Beyond them bytes are read and sent.
MAX_PIPES: Final = 16
SMALL_READ: Final = 16 * 1024  # bytes a direction may read until it has proved to be bulk
BULK_AFTER: Final = 128 * 1024  # bytes a direction must have moved before it reads in big pieces
# Bytes that all peers together may leave with us by reading slower than we receive. Beyond it every
# direction reads SMALL_READ at a time, so 4096 connections hold 160 MiB at the very worst. Then a
# new stream of HTTP/2 gets a 503.
MAX_HELD: Final = 32 * 1024 * 1024
TURN_BYTES: Final = 1024 * 1024  # bytes a direction moves before other tasks get a turn (~0.3 ms)

ACCEPT_BATCH: Final = 64  # connections accepted before their handlers get a turn
ACCEPT_BACKOFF: Final = 0.1  # seconds after EMFILE and its like; what trio's own listeners wait
MAX_CHALLENGES: Final = 3  # 407s on one connection; a client needs one to learn what to send


class ProxyLimits(msgspec.Struct, frozen=True):
    """ProxyLimits that tests and profiles may tighten; times in seconds.

    There is no limit on how long a request lasts that keeps moving: a download may take a day.
    """

    connections: int = 1024
    """Open client connections; a session has as many as it has descriptors for."""

    refusals: int = 64
    """Connections over the limit that are being told so; beyond them nothing is accepted."""

    head: float = 10.0
    """From a head's first byte (or the accept) to its last; more bytes do not extend it."""

    keep_alive: float = 60.0
    """Between two requests of one connection; nginx keeps 75, Apache 5."""

    resolve: float = 10.0
    """For one name. The stub resolver of glibc gives up after 5 for each server."""

    dial: float = 10.0
    """For all addresses of one name together."""

    attempt: float = 0.25
    """Head start of one address over the next (RFC 8305 8: 250 ms)."""

    idle: float = 1800.0
    """Without a byte either way, for tunnels and for exchanges: a language model may think for
    minutes before its first byte, a remote shell waits for its user."""

    linger: float = 1.0
    """For the peer to read the last answer while we discard what it still sends."""

    sweep: float = 1.0
    """Between two looks at the deadlines, so a time above may be off by as much."""


DEFAULT_LIMITS: Final = ProxyLimits()


def most_pipes(files: int) -> int:
    """Return how many pipes a proxy may have where `files` descriptors may be open; -1: any number.

    A pipe takes two of 256, so that no connection lacks one."""
    return MAX_PIPES if files < 0 else min(files // 256, MAX_PIPES)
