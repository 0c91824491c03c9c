"""`audit.record` and `proxy.open_proxy`: sessions that a trio program opens and writes itself.

Rules of this file: an event is checked before it is queued, because one that can't be encoded or
read back would end the writer, and so the session. A target that is the log's own is refused.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, NamedTuple

import trio

from nono_trio.audit.store import state_root
from nono_trio.config.options import AuditOptions, NetworkOptions, SessionOptions
from nono_trio.config.settle import check_name
from nono_trio.core.late import late_decoder
from nono_trio.core.log.events import MALFORMED, Network, NetworkEvent, encode_payload
from nono_trio.core.log.notices import OWN_TARGETS
from nono_trio.errors import UsageError
from nono_trio.posix.clock import unix_ms
from nono_trio.session.embedding import embedded_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Literal

    from nono_trio.core.log.events import Decision, Mode
    from nono_trio.session.embedding import EmbeddedSession

logger = logging.getLogger("nono_trio")
_decoder = late_decoder(Network)


class SessionRequest(NamedTuple):
    """The arguments of `audit.record`."""

    command: Sequence[str] | None = None
    name: str | None = None
    audit_dir: str | Path | None = None
    mode: Literal["strict", "best-effort"] = "strict"
    sync: Literal["always", "interval", "never"] = "interval"
    sign_key: str | None = None

    def options(self, network: NetworkOptions | None = None) -> SessionOptions:
        """Return the session's options; raises UsageError."""
        require_type("name", self.name, str, None)
        require_type("audit_dir", self.audit_dir, str, Path, None)
        require_type("sign_key", self.sign_key, str, None)
        if self.name is not None:
            check_name(self.name)
        require_one_of("mode", self.mode, ("strict", "best-effort"))
        require_one_of("sync", self.sync, ("always", "interval", "never"))
        if self.command is not None:
            require_texts("command", self.command)
        given = None if self.audit_dir is None else str(self.audit_dir)
        if given is not None and "://" in given:
            raise UsageError(f"audit_dir: expected a directory, got the URL {given}")
        audit = AuditOptions(
            state_root(given, os.environ), self.mode, self.sync, sign_key=self.sign_key
        )
        return SessionOptions(network or NetworkOptions(), audit, self.name)


class SessionLog:
    """The log of a session that is open; `session_id` names it, `directory` has its files."""

    session_id: str
    directory: Path

    def __init__(self, session: EmbeddedSession) -> None:
        self.session_id = session.record.session_id
        self.directory = session.record.directory
        self._session = session

    async def record(
        self,
        decision: Decision,
        target: str,
        *,
        port: int | None = None,
        mode: Mode = "connect",
        method: str | None = None,
        path: str | None = None,
        reason: str | None = None,
    ) -> int:
        """Commit a decision about `target` (a host, as a rule) at this time; see `record_event`."""
        event = NetworkEvent(
            timestamp_unix_ms=unix_ms(),
            mode=mode,
            decision=decision,
            target=target,
            port=port,
            method=method,
            path=path,
            reason=reason,
        )
        return await self.record_event(event)

    async def record_event(self, event: NetworkEvent) -> int:
        """Commit one decision; return its sequence, once it is in the log. Then act, not before.

        In best-effort mode it may return -1: the event is counted as lost. Raises UsageError for
        values that no record can have, AuditBusy if the queue stayed full for 10 s, AuditLost if
        the log has failed, SessionSealed after the end of the block: nothing was recorded then.
        If cancelled, the event may still be recorded: do not act on it.
        """
        return await self._session.recorder.record(_checked(event))


@asynccontextmanager
async def open_log(request: SessionRequest) -> AsyncIterator[SessionLog]:
    """As `audit.record`."""
    require_trio()
    options = request.options()
    async with embedded_session(options, command_of(request), logger.warning) as session:
        yield SessionLog(session)


def command_of(request: SessionRequest) -> Sequence[str]:
    """Return the command that a session says it runs."""
    return [*sys.argv] if request.command is None else [*request.command]


def require_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Raise UsageError for a value that is not known."""
    if value not in known:
        raise UsageError(f"{name}: expected one of {', '.join(known)}, got {value!a}")


def require_type(name: str, value: object, *types: type | None) -> None:
    """Raise UsageError for a value of none of these types; True and False are no numbers."""
    known = tuple(NoneType if one is None else one for one in types)
    if not isinstance(value, known) or isinstance(value, bool):
        shown = " or ".join("None" if one is None else one.__name__ for one in types)
        raise UsageError(f"{name}: expected {shown}, got {value!a}")


def require_texts(name: str, values: object) -> None:
    """Raise UsageError for what is no sequence of texts: a text alone would be its letters, and a
    generator would have none left for who reads it next."""
    if (
        isinstance(values, str)
        or not isinstance(values, Collection)
        or not all(isinstance(one, str) for one in values)
    ):
        raise UsageError(
            f"{name}: expected a sequence of texts, got {values!a}",
            hint=f"for example {name}=[...]",
        )


def require_trio() -> None:
    """Raise UsageError where no task of trio calls."""
    if not trio.lowlevel.in_trio_task():
        raise UsageError(
            "expected a task of trio, got a call from elsewhere",
            hint="call it inside of trio.run(main)",
        )


def _checked(event: NetworkEvent) -> NetworkEvent:
    """Return the event as it will be read; raises UsageError."""
    try:
        read = _decoder.decode(encode_payload(Network(event=event))).event
    except (*MALFORMED, TypeError, OverflowError) as error:
        raise UsageError(f"expected values of a network event, got others: {error}") from error
    if read.target.startswith(OWN_TARGETS):
        raise UsageError(f"expected another target, got {read.target!a}, which is the log's own")
    return read
