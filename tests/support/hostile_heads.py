"""The attacks on proxies in tests/data/hostile-inputs.json as bytes, and heads like theirs."""

from __future__ import annotations

import json
import re

from checkout import TESTS
from hostile_siblings import AUTH

PROXY = "127.0.0.1:3128"
MACRO = re.compile(r"\{([^{}]{1,8})\*(\d+)\}", re.DOTALL)
COLLECTION = TESTS / "data" / "hostile-inputs.json"
CASES = [
    case
    for case in json.loads(COLLECTION.read_text("utf-8"))
    # the forwarder judges chunks, the server judges time
    if case["category"] != "timing" and not case["name"].startswith("s-chunk-")
]


def expand(request: str) -> bytes:
    request = request.replace("{AUTH}", AUTH).replace("{PROXY}", PROXY)
    request = request.replace("{CRLF*1000}", "\r\n" * 1000)
    return MACRO.sub(lambda match: match[1] * int(match[2]), request).encode("latin-1")


def request(line: str, *fields: str, host: str | None = "Host: allowed.test") -> bytes:
    lines = [line, *([host] if host else []), f"Proxy-Authorization: {AUTH}", *fields]
    return "".join(f"{one}\r\n" for one in [*lines, ""]).encode("latin-1")
