"""TLS handshakes in memory: a client context against a server context, without a socket."""

from __future__ import annotations

import contextlib
import ssl


def trusting(pem: bytes, *, strict: bool = True) -> ssl.SSLContext:
    """A client that trusts `pem` alone; `strict` as Python 3.13 and newer are by default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem.decode("ascii"))
    if strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Client and server side after the handshake and one byte of data; raises ssl.SSLError."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    finish(ours, theirs)
    theirs.write(b"x")
    assert ours.read(1) == b"x"
    return ours, theirs


def finish(ours: ssl.SSLObject, theirs: ssl.SSLObject) -> None:
    """Bring both sides through the handshake; raises ssl.SSLError of the side that refuses."""
    open_sides = [ours, theirs]
    for _ in range(8):  # flights; TLS 1.2 has four
        for side in list(open_sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_sides.remove(side)
        if not open_sides:
            return
    raise AssertionError("the handshake did not end")


def first_flight(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    """The server's bytes after the hello of a client."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname="a.example")
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    return to_client.read()


def close(ours: ssl.SSLObject, theirs: ssl.SSLObject) -> None:
    """Both sides say goodbye, so that the server keeps the session."""
    for _ in range(2):
        for side in (theirs, ours):
            try:
                side.unwrap()
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                continue
