"""One request as far as it can be judged without the network: head, target, the body's beginning.

Rules of this file: what is malformed is refused here, before anyone asks for a token or a policy
(RFC 9110 leaves the order open; this one gives each input one answer). That includes the framing of
body bytes that came along with the head: they are at hand, so a bad one need not cost a dial.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.core.http.body import Body, ChunkedBody, LengthBody
from nono_trio.core.http.chunked import BadBody
from nono_trio.core.http.hidden_request import REASON, HiddenRequest, has_unusual_body
from nono_trio.core.http.request_head import BadRequest, connect_target, http_target, parse_head
from nono_trio.core.log.redaction import redact_path
from nono_trio.proxy.access.decision import Subject

if TYPE_CHECKING:
    from nono_trio.core.http.message import RequestHead
    from nono_trio.core.http.target import HttpTarget
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.rule import Spoken


@dataclass(slots=True)
class PlainRequest:
    """What a plain HTTP request has beyond a CONNECT. `early` is what was read of its body."""

    target: HttpTarget
    body: Body
    early: bytes


@dataclass(slots=True)
class Request:
    """A well-formed request; `plain` is None for CONNECT, and `spoken` is what its tunnel has to
    carry, once it is known to be allowed."""

    head: RequestHead
    host: Host
    port: int
    subject: Subject
    plain: PlainRequest | None = None
    spoken: Spoken = "anything"

    @property
    def has_open_body(self) -> bool:
        """Whether the client has still to send some of the body."""
        return self.plain is not None and not self.plain.body.done


def read_request(raw: bytes, unread: bytes) -> tuple[Request, bytes]:
    """The request whose head is `raw`, and what of `unread` stands behind its body so far.

    Raises BadRequest.
    """
    head = parse_head(raw)
    if head.method == "CONNECT":
        host, port = connect_target(head)
        return Request(head, host, port, Subject("connect", host.name, port, "CONNECT")), unread
    return read_plain(head, http_target(head), unread)


def read_plain(head: RequestHead, target: HttpTarget, unread: bytes) -> tuple[Request, bytes]:
    """A plain request to `target`, otherwise as `read_request`. Raises BadRequest."""
    path = redact_path(target.path.decode("ascii"))
    subject = Subject("reverse", target.host.name, target.port, head.method, path)
    body = ChunkedBody() if head.body == "chunked" else LengthBody(head.length)
    try:
        early, taken = body.read(unread)
    except BadBody as fault:
        raise BadRequest(400, fault.reason, target.host.name) from fault
    if has_unusual_body(head) and HiddenRequest().is_in(early):
        raise BadRequest(400, REASON, target.host.name)
    plain = PlainRequest(target, body, early)
    return Request(head, target.host, target.port, subject, plain), unread[taken:]


def malformed_subject(raw: bytes, fault: BadRequest) -> Subject:
    """What an event can say about a request that could not be read."""
    return Subject("connect" if raw.startswith(b"CONNECT") else "reverse", fault.target)
