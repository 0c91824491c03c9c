"""Fuzz targets: texts that the command, a repository or an old session may have written."""

from __future__ import annotations

import io
import json
import re
import socket
import sys
import tempfile
from functools import cache
from pathlib import Path

import trio
from fuzz_engine import Target, pieces, require

from nono_trio.audit.archive.tar_format import (
    BLOCK,
    MANIFEST,
    MEMBERS,
    REQUIRED,
    encode_manifest,
    header,
    members,
    padding,
    session_id_of,
)
from nono_trio.audit.read.records import flows, lines, lines_backwards, parse_record, records
from nono_trio.audit.verify.chain import BadRecord, Chain
from nono_trio.core.http.mcp_message import TOOLS_CALL, BadMessage
from nono_trio.core.http.mcp_reader import read_messages
from nono_trio.core.log.events import (
    Network,
    NetworkEvent,
    Payload,
    SessionEnded,
    SessionStarted,
    encode_payload,
)
from nono_trio.core.log.record import chain_hash, encode_line, leaf_hash
from nono_trio.core.log.redaction import redact_path
from nono_trio.core.log.text_limits import bounded_payload
from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.endpoint_path import BadPath, canonical_target
from nono_trio.core.policy.endpoint_rule import parse_entry
from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.rule import parse_allow, parse_deny
from nono_trio.core.profile.parser import read_profile
from nono_trio.errors import LogUnreadable, UsageError
from nono_trio.sandbox.denied_files import DeniedFiles
from nono_trio.sandbox.launcher import protocol
from nono_trio.sandbox.launcher.linux.view_reports import TOLD

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests" / "support"))  # models of servers, and the table of spellings

from endpoint_paths import DECODING, SPLITTING, covered, spellings  # noqa: E402
from mcp_bodies import plain_form, readings  # noqa: E402
from mcp_bodies import spellings as mcp_spellings  # noqa: E402

SERVERS = (*SPLITTING, *DECODING)

API = parse_host("api.test")
RULES = (
    "allow GET https://api.test/public/**", "allow * https://api.test/*/x",
    "deny * https://api.test/**/admin/**", "audit POST https://api.test/x/**",
    "allow GET https://api.test/q?state=open",
)  # fmt: skip
OPENED = ("/public/**", "/*/x", "/x/**", "/q")


@cache
def _policy() -> Policy:
    return Policy.build(endpoints=RULES)


def endpoint(data: bytes) -> str:
    """Matched is sent and recorded, and what is sent is covered at each kind of server."""
    method = ("GET", "POST", "get")[data[0] % 3] if data else "GET"
    text = data[1:].decode("latin-1")
    try:
        canonical = canonical_target(text)
    except BadPath as fault:
        _check_verdict(text, method)
        require(fault.reason.isprintable(), "unprintable", fault.reason)
        return fault.reason
    require(canonical_target(canonical.text) == canonical, "not idempotent", canonical)
    return _check_verdict(text, method)


def _check_verdict(text: str, method: str) -> str:
    policy = _policy().endpoints
    if policy is None:
        raise AssertionError("no rules")
    found = policy.verdict("https", API, 443, method, text)
    if not found.target:
        require(not found.allowed, "allowed without a target", found)
        return f"{found.status}"
    require(found == policy.verdict("https", API, 443, method, found.target), "not stable", found)
    sent, recorded = found.target.partition("?"), found.path.partition("?")
    require(recorded[:2] == (redact_path(sent[0]), sent[1]), "recorded another", found)
    if found.allowed:
        for server in SERVERS:
            resource = server(found.target)
            where = found.target, server.__name__
            require(not covered("/admin/**", resource), "a denied path went out", where)
            require(any(covered(one, resource) for one in OPENED), "not covered", where)
    return f"{found.allowed} {found.action} {found.rule}"


def host(data: bytes) -> str:
    """A host parses to itself; rules and entries are read or refused."""
    text = data.decode("utf-8", "surrogateescape")
    outcome = []
    try:
        found = parse_host(text)
        require(parse_host(found.bracketed()) == found, "not idempotent", found)
        outcome.append(str(found.address is None))
    except BadHost as fault:
        require(fault.reason.isprintable(), "unprintable", fault.reason)
        outcome.append(fault.reason)
    for read in (parse_allow, parse_deny, parse_entry):
        try:
            read(text)
            outcome.append("yes")
        except UsageError as error:
            require(error.message.isprintable(), "unprintable", error.message)
            outcome.append("no")
    return " ".join(outcome)


def profile(data: bytes) -> str:
    """Any text is a profile or has faults with a line."""
    name = "x.json" if data[:1] == b"{" else "x.toml"
    reading = read_profile(data.decode("utf-8", "replace"), name)
    for fault in reading.faults:
        require(fault.line >= 1, "a fault without a line", fault)
        require(fault.message.isprintable(), "unprintable", fault.text)
        fault.text.encode()  # keys are shown by what removes control characters
    return "; ".join(sorted({fault.message[:24] for fault in reading.faults}))[:80]


def _log() -> list[bytes]:
    event = NetworkEvent(
        timestamp_unix_ms=1, mode="connect", decision="allow", target="a.test", port=443,
        method="CONNECT", path=None,
    )  # fmt: skip
    payloads = [
        SessionStarted(started="2026-01-01T00:00:00Z", command=["a", "\u2028é\U0001f600"]),
        *[Network(event=event)] * 3,
        SessionEnded(ended="2026-01-01T00:00:01Z", exit_code=0),
    ]
    made, head = [], None
    for sequence, payload in enumerate(payloads):
        text = encode_payload(payload)
        leaf = leaf_hash(text)
        chain = chain_hash(head, leaf)
        made.append(encode_line(sequence, head, leaf, chain, text))
        head = chain
    return made


LOG = _log()
FLOW = (
    b'{"sequence":2,"target":"a.test","port":443,"address":"192.0.2.1","opened_unix_ms":1,'
    b'"duration_ms":2,"bytes_up":3,"bytes_down":4,"closed_by":"client"}\n'
)


def audit_log(data: bytes) -> str:
    """Strictly, no line is accepted that the writer did not write; readers raise what they say."""
    outcome = []
    for strict in (True, False):
        chain = Chain(strict=strict)
        for line in data.splitlines(keepends=True) if not strict else _lines(data):
            try:
                chain.feed(line)
            except BadRecord as bad:
                require(bool(bad.failure), "no reason")
                outcome.append(bad.failure)
                break
            if strict:
                require(line == LOG[chain.count - 1], "a changed line was accepted", line)
        outcome.append(str(chain.count))
    for line in _lines(data):
        parse_record(line)
    with tempfile.TemporaryDirectory(dir=_shared_memory()) as directory:
        path = Path(directory, "log")
        path.write_bytes(data)
        forwards = [*lines(path, len(data))]
        backwards = [line for _, line in lines_backwards(path, len(data))]
        ended = [line for line in forwards if line.endswith(b"\n")]
        require(backwards == ended[::-1], "other lines backwards", backwards, ended)
        for read in (records, flows):
            try:
                outcome.append(str(min(len([*read(path)]), 3)))
            except LogUnreadable as error:
                require(error.message.isprintable(), "unprintable", error.message)
                outcome.append("unreadable")
    return " ".join(outcome)


def mcp(data: bytes) -> str:
    """Servers that take the first or the last of two members, or no case, find the same tool."""
    try:
        messages = read_messages(data)
    except BadMessage as fault:
        return fault.reason
    for read in (dict, _first_wins, _without_case):
        value = json.loads(data, object_pairs_hook=read, parse_int=str)
        objects = value if isinstance(value, list) else [value]
        for one, message in zip(objects, messages, strict=True):
            require(one.get("method") == message.method, "another method", read, one, message)
            called = one["params"]["name"] if message.tool is not None else None
            require(called == message.tool, "another tool", read, one, message)
            if isinstance(message.method, str) and message.method.lower() == "tools/call":
                require(message.tool is not None, "a call without a tool", message)
    found = {(plain_form(one.method or ""), plain_form(one.tool or "")) for one in messages}
    run = {(one, tool if one == TOOLS_CALL else "") for one, tool in readings(data)}
    require(run <= found, "a lenient server runs another call", run, found)
    return f"{len(messages)} {messages[0].method is None} {messages[0].tool is None}"


def _first_wins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return dict(reversed(pairs))


def _without_case(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return {name.casefold(): value for name, value in pairs}


class _Log:
    """A recorder that encodes as the writer does."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    async def record_payload(self, payload: Payload) -> int:
        """As `Recorder.record_payload`."""
        self.lines.append(encode_payload(bounded_payload(payload)))
        return len(self.lines)


def denied_file(data: bytes) -> str:
    """Each path that is looked up has one record, whatever its bytes are."""
    paths = [b"/" + one[:300] for one in data.replace(b"\0", b"?").split(b"\n")][:8]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = _Log()
    with ours, theirs:
        for number, path in enumerate(paths, start=1):
            theirs.send(TOLD.pack(number, 1, True, 0, 0) + path)
        theirs.shutdown(socket.SHUT_WR)
        files = DeniedFiles(ours, log, "20260101-000000-aaaaaaaa")
        trio.run(files.serve)
        for payload in files.rest():
            encode_payload(bounded_payload(payload))
    require(len(log.lines) == len({*paths}), "a path without a record", paths, log.lines)
    escaped = b"".join(log.lines).count(b"\\x")
    return f"{len(log.lines)} {min(escaped, 9)}"


def _lines(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data.split(b"\n")[:-1]] + [
        *filter(None, [data.split(b"\n")[-1]])
    ]


def _shared_memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def launcher_messages(data: bytes) -> str:
    """Messages between supervisor and launcher are split the same however the bytes come."""
    step, wire = (data[0] + 1 if data else 1), data[1:]
    whole, cut = _messages(wire, len(wire) + 1), _messages(wire, step)
    require(whole == cut, "the messages depend on the pieces", whole, cut)
    return f"{whole[-1][:40] if whole else ''} {len(whole)}"


def _messages(wire: bytes, step: int) -> list[str]:
    decoder, found = protocol.Decoder(), list[str]()
    for piece in pieces(wire, step):
        decoder.feed(piece, [])
        try:
            while (message := decoder.next()) is not None:
                found.append(repr(message[0]))
        except protocol.ProtocolError as error:
            return [*found, str(error)]
    return found


PROFILES = tuple(path.read_bytes() for path in sorted((ROOT / "nono_trio/profiles").glob("*.toml")))
PROFILE = b"""
[meta]
name = "x"
[network]
allow_domain = ["a.test", "tls://b.test:8443", "*.c.test"]
allow_endpoint = ["GET https://a.test/v1/**"]
[[network.endpoint]]
host = "a.test"
methods = ["GET"]
path = "/x/*"
query = { a = "b" }
action = "deny"
[filesystem]
read = ["~/x", "$HOME/y"]
"""


def archive(data: bytes) -> str:
    """The reader takes all of an archive: what it reads, written again, is the same bytes."""
    file, found = io.BytesIO(data), {}
    session_id = session_id_of(data[:BLOCK]) or ARCHIVED
    try:
        for member in members(file, Path("session.tar"), session_id):
            found[member.name] = file.read(member.size)
    except LogUnreadable as error:
        require(error.message.isprintable(), "unprintable", error.message)
        return re.sub(r"[0-9]+", "N", error.message)
    require(archived(found, session_id) == data, "other bytes", [*found])
    return f"{len(found)} files"


def archived(files: dict[str, bytes], session_id: str) -> bytes:
    """An archive with these files, by its form alone."""
    files = {MANIFEST: encode_manifest(session_id), **files}
    return b"".join(
        header(f"{session_id}/{name}", len(data)) + data + bytes(padding(len(data)))
        for name, data in files.items()
    ) + bytes(2 * BLOCK)


ARCHIVED = "0123456789abcdef"
ARCHIVE = archived({name: b"{}\n" for name in MEMBERS if name in REQUIRED - {MANIFEST}}, ARCHIVED)

TARGETS = (
    Target("endpoint", "paths and endpoint rules, against models of servers", endpoint,
           [*[b"\0" + one.path.encode("utf-8") for one in spellings()], b"\0/public/a",
            b"\1/x/y?a=b", b"\0/q?state=open", b"\0/public/../admin/x"],
           (b"/public/", b"/admin/", b"ADMIN", b"%2e", b"%2E%2e", b"%252e", b"%2f", b"%252F", b";",
            b"%3b", b"..;", b"//", b"%5c", b"%c3%a9", b"%ef%bc%8e", b"%u002e", b"?", b"#", b"*")),
    Target("host", "hosts, entries and rules", host,
           (b"example.com", b"*.example.com:443", b"tls://a.test:8443", b"[::1]:80",
            b"GET,HEAD https://a.test/v1/**", b"allow read-only https://*.a.test/x?y=z",
            b"127.0.0.1", b"http://a.test:8080/x", "m\u00fcnchen.test".encode(), b"deny * https://a.test/**"),
           (b"xn--", b"\xef\xbd\x8e", b"0x7f", b"%", b"[::ffff:", b"allow_encoded_slash", b"*")),
    Target("profile", "profiles in TOML and JSON", profile,
           [PROFILE, *PROFILES, b'{"network": {"allow_domain": ["a.test"]}}'],
           (b"[[", b"]]", b'"""', b"'''", b"\\u0000", b"\\ud800", b"1979-05-27T07:32:00Z",
            b"9" * 5000, b"[" * 400, b"{a=" * 200, b"inf", b"0x", b'"', b"=", b".", b"[network]",
            b"allow_domain")),
    Target("audit-log", "the log and its readers", audit_log,
           [b"".join(LOG), b"".join(LOG[:2]) + LOG[2][:30], FLOW * 2],
           (b"\n", b'"sequence":', b'"event":', b'"event_json":', b"null", b"\\u0000", b"\\ud800",
            b"1e999", b"9" * 5000, b"[" * 2000, b"\xe2\x80\xa8", b"NaN")),
    Target("archive", "archives of sessions", archive,
           [ARCHIVE, ARCHIVE[:-BLOCK], ARCHIVE + bytes(BLOCK), ARCHIVE[: 5 * BLOCK],
            header(f"{ARCHIVED}/{MANIFEST}", 0) + bytes(2 * BLOCK)],
           (bytes(BLOCK), b"ustar", b"../", b"/etc/", header(f"{ARCHIVED}/flows.ndjson", 0),
            header("x", 0), b"00000000001", b"77777777777", b"\x80")),
    Target("mcp", "messages to MCP servers", mcp,
           [b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{}}}',
            b'[{"jsonrpc":"2.0","method":"ping"},{"jsonrpc":"2.0","id":"x","result":{}}]',
            *[body for _, body, _ in mcp_spellings() if len(body) < 4096]],
           (b'"method":"ping",', b'"Method"', b'"name":"b",', b'"\\u004eame":', b'"params":{}',
            b"NaN", b"\\ud800", b"\\u0000", b"\xef\xbb\xbf", b"9" * 5000, b"[" * 2000,
            b"\xe2\x84\xaa")),
    Target("denied-file", "paths that the command looks up", denied_file,
           [b"etc/x\nhome/\xff\xfe\n\xe2\x80\xae/\x1b[0m", b"a\na\nb"],
           (b"\n", b"/", b"..", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\\x00", b"~")),
    Target("launcher", "messages between supervisor and launcher", launcher_messages,
           [b"\x07" + protocol.encode({"go": True}) + protocol.encode({"exited": 3}),
            b"\x01" + protocol.encode({"ready": {"a": [1, "x"]}})],
           (b"\0\0\0\x02", b"\0\0\0\0", b"[" * 2000, b"9" * 5000, b"\\ud800", b"NaN")),
)  # fmt: skip
