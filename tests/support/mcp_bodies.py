"""MCP messages for tests: calls, many spellings of one denied call, and how lenient servers read.

A spelling is a body with the content type it is sent with. `readings` is what servers of all kinds
may make of a body: the method and tool of each message that one of them would run.
"""

from __future__ import annotations

import json
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

DENIED = "delete_repo"
ALLOWED = "search"
JSON = "application/json"


def call(tool: str = ALLOWED, identifier: object = 1, **arguments: object) -> bytes:
    return message("tools/call", identifier, name=tool, arguments=arguments)


def message(method: str, identifier: object = 1, **params: object) -> bytes:
    parts: dict[str, object] = {"jsonrpc": "2.0", "id": identifier, "method": method}
    if params:
        parts["params"] = params
    return json.dumps(parts).encode()


def _text(method: str = '"tools/call"', name: str = f'"{DENIED}"', *, top: str = "") -> str:
    return f'{{"jsonrpc":"2.0","id":1,"method":{method},"params":{{"name":{name}}}{top}}}'


def escaped(text: str) -> str:
    return "".join(f"\\u{ord(one):04x}" for one in text)


def spellings() -> Iterator[tuple[str, bytes, str]]:
    """Yield (name, body, content type) of calls of the denied tool."""
    plain = _text()
    good = _text(name=f'"{ALLOWED}"')
    for name, text in _texts(plain, good):
        yield name, text.encode("utf-8", "surrogatepass"), JSON
    for coding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "utf-8-sig"):
        yield f"coding {coding}", plain.encode(coding), JSON
        yield f"charset {coding}", plain.encode(coding), f"{JSON}; charset={coding}"
    yield "latin-1", _text(name='"é", "name": "delete_repo"').encode("latin-1"), JSON
    yield "NUL before", b"\0" + plain.encode(), JSON
    yield "NUL after", plain.encode() + b"\0", JSON
    yield "overlong", plain.encode().replace(b"/", b"\xc0\xaf"), JSON
    for kind in (
        "", "text/plain", "text/json", "application/json-rpc", "application/jsonrequest",
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "APPLICATION/JSON",
        "application/json; charset=utf-16", "application/json;charset=UTF-8",
        'application/json; charset="utf-8"', "application/json, text/plain", "application/json;",
        "application/json; charset=utf-8; charset=utf-16", "application/vnd.api+json", "*/*",
        "application/json; boundary=x", "application/json\t;charset=utf-8", "application/cbor",
    ):  # fmt: skip
        yield f"content type {kind!r}", plain.encode(), kind


def _texts(plain: str, good: str) -> Iterator[tuple[str, str]]:
    yield "plain", plain
    for blank in (" ", "\n", "\r\n", "\t", " \n" * 50):
        yield f"blank {blank!r:.8}", f"{blank}{plain}{blank}"
        yield f"blank inside {blank!r:.8}", plain.replace(":", f"{blank}:{blank}")
    for blank in ("\x0b", "\x0c", "\xa0", "\u2028", "\ufeff", "\u200b", "\x1e", "//x\n", "/**/"):
        yield f"no blank {blank!r}", blank + plain
        yield f"no blank behind {blank!r}", plain + blank
    yield "escaped method", _text(f'"{escaped("tools/call")}"')
    yield "one escape", _text('"\\u0074ools/call"')
    yield "escaped slash", _text('"tools\\/call"')
    yield "escaped name", _text(name=f'"{escaped(DENIED)}"')
    yield "upper-case escape", _text(name='"delete\\u005Frepo"')
    for key in ("method", "params", "name", "jsonrpc"):
        yield f"escaped key {key}", plain.replace(f'"{key}"', f'"{escaped(key)}"')
    for first, second in ((good, plain), (plain, good)):
        order = "last" if second is plain else "first"
        inner, outer = first[1:-1], second[1:-1]
        yield f"all twice, {order}", f"{{{inner},{outer}}}"
        yield f"batch, {order}", f"[{first},{second}]"
        yield f"two lines, {order}", f"{first}\n{second}"
        yield f"two texts, {order}", f"{first}{second}"
        yield f"text sequence, {order}", f"\x1e{first}\n\x1e{second}\n"
    for one in ("Method", "METHOD", "meth\\u006fd", "method\\u0000", "method ", " method"):
        for listing in ('"tools/list"', '"ping"'):
            yield f"two methods {one} {listing}", _text(listing, top=f',"{one}":"tools/call"')
            other = f'{{"{one}":"tools/call",{_text(listing)[1:]}'
            yield f"two methods before {one} {listing}", other
    for one in ("Name", "NAME", "n\\u0061me", "name\\u0000", "nam\\u0065", "na\\u004de"):
        for before in (True, False):
            names = [f'"{one}":"{DENIED}"', f'"name":"{ALLOWED}"']
            pair = ",".join(names if before else reversed(names))
            yield f"two names {one} {before}", plain.replace(f'"name":"{DENIED}"', pair)
    for one in ("Params", "PARAMS", "p\\u0061rams", "param\\u017f", "params\\u0000",
                "par\\ufeffams", "pa\\u200brams"):  # fmt: skip
        yield f"two params {one}", f'{good[:-1]},"{one}":{{"name":"{DENIED}"}}}}'
        yield f"two params before {one}", f'{{"{one}":{{"name":"{DENIED}"}},{good[1:]}'
    for method in ("Tools/Call", "TOOLS/CALL", "tools/call ", " tools/call", "tool\\u017f/call",
                   "tools/call\\u0000", "tools/c\\uff41ll", "tools\\u002fcall"):  # fmt: skip
        yield f"method {method}", _text(f'"{method}"')
    for name in ("Delete_Repo", "DELETE_REPO", "delete_repo ", " delete_repo", "delete_repo\\n",
                 "delete_repo\\u0000", "\\uff44elete_repo", "delete\\u005frepo", "delete_repo\\t",
                 "search\\u0000", "delete_repo\\u200b", "delete_repo\\ud800"):  # fmt: skip
        yield f"name {name}", _text(name=f'"{name}"')
    for value in ('["delete_repo"]', '{"name":"delete_repo"}', "null", "1", "true", "NaN", '""'):
        yield f"name is {value}", _text(name=value)
        yield f"method is {value}", _text(method=value)
    yield "params is a list", plain.replace('{"name":"delete_repo"}', '["delete_repo"]')
    yield "params is a text", plain.replace('{"name":"delete_repo"}', '"delete_repo"')
    yield "nested batch", f"[[{plain}]]"
    yield "batch of one", f"[{plain}]"
    yield "deep batch", "[" * 2000 + plain + "]" * 2000
    yield "deep arguments", plain[:-2] + ',"arguments":' + "[" * 3000 + "]" * 3000 + "}}"
    yield "batch with text", f'[{good},"x",{plain}]'
    yield "batch with null", f"[null,{plain}]"
    yield "empty batch", "[]"
    yield "long batch", f"[{','.join([good] * 40)},{plain}]"
    yield "notification", plain.replace('"id":1,', "")
    yield "id null", plain.replace('"id":1', '"id":null')
    yield "id float", plain.replace('"id":1', '"id":1.5')
    yield "id object", plain.replace('"id":1', '"id":{}')
    yield "id huge", plain.replace('"id":1', f'"id":{"9" * 400}')
    yield "no jsonrpc", plain.replace('"jsonrpc":"2.0",', "")
    yield "jsonrpc 1.0", plain.replace('"2.0"', '"1.0"')
    yield "jsonrpc number", plain.replace('"2.0"', "2.0")
    yield "with result", _text(top=',"result":{}')
    yield "with error", _text(top=',"error":{"code":1,"message":"x"}')
    yield "huge before", _text(top="").replace('{"jsonrpc"', f'{{"x":"{"a" * 70000}","jsonrpc"')
    yield "huge behind", _text(top=f',"x":"{"a" * 70000}"')
    yield "just too long", plain + " " * (65537 - len(plain))
    yield "just short enough", plain + " " * (65536 - len(plain))
    yield "NaN", _text(top=',"x":NaN')
    yield "infinity", _text(top=',"x":-Infinity')
    yield "1e999", _text(top=',"x":1e999')
    yield "single quotes", plain.replace('"', "'")
    yield "trailing comma", f"{plain[:-1]},}}"
    yield "comment", plain.replace(",", ",/*x*/", 1)
    yield "no quotes", plain.replace('"method"', "method")
    yield "form", "jsonrpc=2.0&id=1&method=tools/call&params[name]=delete_repo"
    yield "event", f"data: {plain}\n\n"
    yield "frame", f"Content-Length: {len(plain)}\r\n\r\n{plain}"
    yield "empty", ""


class _Pairs(list[tuple[str, Any]]):
    """An object with its members in order."""


def readings(body: bytes) -> set[tuple[str, str]]:
    """The (method, tool) of each message that some server would run, in lower case."""
    found: set[tuple[str, str]] = set()
    is_utf_8 = False
    for coding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"):
        if coding == "latin-1" and is_utf_8:  # for servers that fall back to it
            continue
        try:
            text = body.decode(coding).strip("\0\x1e \ufeff\r\n\t")
            is_utf_8 = is_utf_8 or coding == "utf-8-sig"
        except UnicodeDecodeError:
            continue
        for piece in {text, *text.split("\n"), text.partition("}{")[0] + "}"}:
            try:
                value, _ = json.JSONDecoder(object_pairs_hook=_Pairs).raw_decode(piece)
            except (ValueError, RecursionError):
                continue
            found |= set(_messages(value))
    return found


def _messages(value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, _Pairs):
        for method in _values(value, "method"):
            names = [one for params in _values(value, "params") for one in _values(params, "name")]
            for name in names or [""]:
                yield plain_form(method), plain_form(name)
    elif isinstance(value, list):
        for one in value:
            yield from _messages(one)


def _values(pairs: object, name: str) -> list[object]:
    """The values of a member for a server that takes any case, and the first or the last."""
    if not isinstance(pairs, _Pairs):
        return []
    return [value for key, value in pairs if plain_form(key) == name]


def plain_form(text: object) -> str:
    """A name for a server that regards neither case nor form."""
    whole = unicodedata.normalize("NFKC", str(text).partition("\0")[0]).casefold()
    return "".join(one for one in whole if one.isprintable()).strip()
