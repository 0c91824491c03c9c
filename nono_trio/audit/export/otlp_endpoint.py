"""Sends log records to an OpenTelemetry endpoint: OTLP over HTTP, protobuf, compressed.

Rules of this file:
- TLS is verified, and no redirect is followed, so that a secret field goes to no other host.
- A batch is taken only by a 2xx answer whose body is OTLP's, so by no login page with status 200.
- Every wait and every answer has a bound. No error has the value of a field.
"""

from __future__ import annotations

import gzip
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import h11
import msgspec
import trio

from nono_trio.audit.export import formats
from nono_trio.audit.export.destination import Refused, Taken, Unavailable
from nono_trio.core.export.otlp_message import decode_response, encode_request
from nono_trio.core.export.retry import parse_retry_after
from nono_trio.core.log.shown_text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.audit.export.formats import LineFormat
    from nono_trio.core.export.exported import Exported, SessionFacts

CONNECT_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 30.0  # with its answer; a receiver may write the batch to a disk
CLOSE_SECONDS: Final = 2.0
MAX_ANSWER: Final = 1024 * 1024
_AT_ONCE: Final = 64 * 1024
_BAD_BATCH: Final = frozenset({400, 413, 422})
PROTOBUF: Final = "application/x-protobuf"

Headers = list[tuple[str, str]]


class Endpoint(msgspec.Struct, kw_only=True, frozen=True):
    """The address of a receiver; `host` without brackets."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.tls else 80
        return host if self.port == usual else f"{host}:{self.port}"


class _Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes


class OtlpEndpoint:
    """One receiver. `headers` returns the fields to add; it is called in a thread."""

    def __init__(
        self,
        endpoint: Endpoint,
        form: LineFormat,
        headers: Callable[[], Headers],
        context: ssl.SSLContext | None,
        *,
        integrity: bool,
        compressed: bool = True,
    ) -> None:
        self._compressed = compressed
        self._endpoint = endpoint
        self._form = form
        self._headers = headers
        self._context = context
        self._integrity = integrity
        self._connection: _Connection | None = None

    async def deliver(self, lines: Sequence[Exported], facts: SessionFacts) -> Taken:
        """Send one batch."""
        records = formats.log_records(lines, facts, self._form, integrity=self._integrity)
        body = encode_request(records, facts)
        if self._compressed:
            body = gzip.compress(body, 5, mtime=0)
        try:
            headers = await trio.to_thread.run_sync(self._headers, abandon_on_cancel=True)
        except OSError as error:
            raise Unavailable(error.strerror or "a field can't be read") from error
        if self._compressed:
            headers = [("Content-Encoding", "gzip"), *headers]
        return self._judged(await self._exchange(body, headers), len(lines))

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _exchange(self, body: bytes, headers: Headers) -> _Answer:
        """Send a request, on a new connection if the kept one has been closed meanwhile."""
        try:
            with trio.fail_after(REQUEST_SECONDS):
                if self._connection is not None:
                    with suppress(OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                        return await self._once(self._connection, body, headers)
                    await self.aclose()
                self._connection = await self._connect()
                return await self._once(self._connection, body, headers)
        except trio.TooSlowError:
            await self.aclose()
            raise Unavailable(f"no answer within {REQUEST_SECONDS:.0f} seconds") from None
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            await self.aclose()
            raise Unavailable(_reason(error)) from error
        except BaseException:
            await self.aclose()
            raise

    async def _once(self, connection: _Connection, body: bytes, headers: Headers) -> _Answer:
        answer = await connection.request(self._endpoint, body, headers)
        if not connection.is_reusable:
            await self.aclose()
        return answer

    async def _connect(self) -> _Connection:
        endpoint = self._endpoint
        with trio.move_on_after(CONNECT_SECONDS):
            tcp = await trio.open_tcp_stream(endpoint.host, endpoint.port)
            if self._context is None:
                return _Connection(tcp)
            stream = trio.SSLStream(
                tcp, self._context, server_hostname=endpoint.host, https_compatible=True
            )
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return _Connection(stream)
        raise Unavailable(f"no connection within {CONNECT_SECONDS:.0f} seconds")

    def _judged(self, answer: _Answer, sent: int) -> Taken:
        status = answer.status
        if 200 <= status < 300:
            return _taken(answer, sent)
        reason = f"it answers with status {status}"
        if status in _BAD_BATCH:
            raise Refused(reason)
        asked = answer.headers.get("retry-after")
        raise Unavailable(reason, None if asked is None else parse_retry_after(asked))


def _taken(answer: _Answer, sent: int) -> Taken:
    """Return what the receiver says of a batch of `sent` records that it has taken; raises
    Unavailable for an answer that is not OTLP's."""
    kind = answer.headers.get("content-type", PROTOBUF).partition(";")[0].strip().lower()
    try:
        if answer.body and kind != PROTOBUF:
            raise ValueError(kind)  # noqa: TRY301  (as if it could not be decoded)
        said = decode_response(answer.body)
    except ValueError:
        raise Unavailable("its answer is not one of an OTLP receiver") from None
    if said.count > 0:
        rejected = min(said.count, sent)  # a receiver can write any number
        reason = said.message or "without a reason"
        return Taken(rejected, f"{counted(rejected, 'record')} rejected: {reason}")
    return Taken(0, f"the receiver warns: {said.message}" if said.message else None)


def _reason(error: Exception) -> str:
    """Return the cause of a broken connection, without the host's data."""
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate can't be trusted: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.errno is None:  # trio's, of all attempts to connect
        cause = cause.__cause__ or cause
        while isinstance(cause, ExceptionGroup):
            cause = cause.exceptions[0]
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror.lower()
    return "the connection broke" if cause is None else f"the connection broke: {cause}"


class _Connection:
    """One connection of HTTP/1.1, for one request after another."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    @property
    def is_reusable(self) -> bool:
        """True if another request may follow."""
        return self._http.our_state is h11.IDLE

    async def request(self, endpoint: Endpoint, body: bytes, headers: Headers) -> _Answer:
        """Send a request and return the whole answer. If cancelled, the connection is unusable."""
        head = h11.Request(
            method="POST",
            target=endpoint.path,
            headers=[
                ("Host", endpoint.authority),
                ("User-Agent", "nono-trio"),
                ("Content-Type", PROTOBUF),
                ("Content-Length", str(len(body))),
                *headers,
            ],
        )
        parts = [self._http.send(one) for one in (head, h11.Data(body), h11.EndOfMessage())]
        await self._stream.send_all(b"".join(part for part in parts if part))
        return await self._answer()

    async def _answer(self) -> _Answer:
        response: h11.Response | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some(_AT_ONCE)))
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_ANSWER:
                    raise OSError(27, f"the answer has more than {MAX_ANSWER} bytes")
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed | h11.PAUSED):
                break
        if response is None:
            raise OSError(104, "the connection was closed without an answer")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        fields = {
            name.decode("ascii", "replace"): value.decode("latin-1")
            for name, value in response.headers
        }
        return _Answer(response.status_code, fields, bytes(body))

    async def aclose(self) -> None:
        """Close it; a receiver that does not read its close is not waited for."""
        with trio.move_on_after(CLOSE_SECONDS, shield=True), suppress(trio.BrokenResourceError):
            await self._stream.aclose()
