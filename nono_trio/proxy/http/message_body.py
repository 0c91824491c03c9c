"""Reads a body before anything of it is sent: one that MCP rules judge, or in which a credential's
stand-in may have to be swapped.

Rules of this file: the body has one deadline, which more bytes do not extend, and room for a number
of bytes. A client that waits for 100 Continue gets it from us, because the server is not asked yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.http.chunked import BadBody
from nono_trio.core.http.mcp_message import MAX_BODY, BadMessage, cut_off, too_late, too_long
from nono_trio.core.http.message import BodyData
from nono_trio.proxy.access.authorizer import judged_messages, unreadable
from nono_trio.proxy.transport.client import Expired

if TYPE_CHECKING:
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.transport.client import Client

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_messages(
    client: Client, request: HttpRequest, decision: Decision, seconds: float
) -> tuple[Decision, ...]:
    """Return the decisions about the messages of a request; one that refuses is alone. Raises
    Expired as `read_body`."""
    try:
        body = await read_body(client, request, seconds)
    except BadMessage as fault:
        return (unreadable(decision, fault),)
    return judged_messages(request, decision, body)


async def read_body(client: Client, request: HttpRequest, seconds: float) -> bytes:
    """Return the body of a request; bytes after it stay in `client.unread`.

    Raises BadMessage for a body that is too long, and as `read_beginning`.
    """
    if request.head.length > MAX_BODY:
        raise too_long()
    data = await read_beginning(client, request, seconds, MAX_BODY)
    if len(data) > MAX_BODY:
        raise too_long()
    return data


async def hold_body(client: Client, request: HttpRequest, seconds: float, most: int) -> None:
    """Read a body that is not longer than `most` bytes; of a longer one, some more. The request
    carries what was read then. Raises as `read_beginning`."""
    request.carry(await read_beginning(client, request, seconds, most))


async def read_beginning(client: Client, request: HttpRequest, seconds: float, most: int) -> bytes:
    """Return the body of a request, or the first `most` bytes of it and some more. The rest is
    still to be read.

    Raises BadMessage for a body that is malformed, cut off, or not complete within `seconds`;
    Expired for a client whose place was given away. If cancelled, what was read is lost.
    """
    data = bytearray()
    for event in request.early:
        if type(event) is BodyData:
            data += event.data
    client.expire_in(seconds)
    answer = CONTINUE if request.head.expects_continue else b""
    while not request.body.done and len(data) <= most:
        data += await _read_piece(client, request, seconds, answer)
        answer = b""
        await trio.lowlevel.checkpoint()  # a body that has come already would need no wait
    return bytes(data)


async def _read_piece(client: Client, request: HttpRequest, seconds: float, answer: bytes) -> bytes:
    """Send `answer`, and return the next piece of the body."""
    try:
        if answer:
            await client.send(answer)
        raw = client.unread or await client.receive()
    except Expired:
        if client.dropped:
            raise
        raise too_late(seconds) from None
    except OSError:  # the attempt is recorded all the same
        raw = b""
    if not raw:
        raise cut_off()
    try:
        piece, taken = request.body.read(raw)
    except BadBody as fault:
        raise BadMessage(f"is malformed: {fault.reason}") from fault
    client.unread = raw[taken:]
    return piece
