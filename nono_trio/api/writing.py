"""`audit.record` and `proxy.open_proxy`: sessions that a trio program opens and writes itself.

Rules of this file: an event is checked before it is queued, because one that can't be encoded or
read back would end the writer, and so the session. A target that is the log's own is refused.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import trio

from nono_trio.api.arguments import (
    require_directory,
    require_one_of,
    require_texts,
    require_type,
)
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
    from pathlib import Path
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
        require_directory(self.audit_dir)
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


def require_trio() -> None:
    """Raise UsageError where no task of trio calls."""
    if not trio.lowlevel.in_trio_task():
        raise UsageError(
            "expected a task of trio, got a call from elsewhere",
            hint="call it inside of trio.run(main)",
        )


def _checked(event: NetworkEvent) -> NetworkEvent:
    """Return the event as it will be read; raises UsageError."""
    require_type("event", event, NetworkEvent)
    try:
        read = _decoder.decode(encode_payload(Network(event=event))).event
        if read != event:
            _require_plain(event)
    except (*MALFORMED, TypeError, OverflowError) as error:
        raise UsageError(f"expected values of a network event, got others: {error}") from error
    if read.target.startswith(OWN_TARGETS):
        raise UsageError(f"expected another target, got {read.target!a}, which is the log's own")
    return read


def _require_plain(event: NetworkEvent) -> None:
    """Raise MALFORMED for a value that JSON has no form for: it would be recorded as another one
    (bytes as Base64, NaN as null). A tuple in place of a list is allowed."""
    from datetime import date, datetime, time, timedelta  # late: for errors only
    from decimal import Decimal
    from uuid import UUID

    import msgspec

    without_json = (bytes, bytearray, memoryview, datetime, date, time, timedelta, UUID, Decimal)
    msgspec.convert(msgspec.to_builtins(event, builtin_types=without_json), NetworkEvent)
