"""No secret of a request stays in the memory of the proxy once its connection has closed."""

from __future__ import annotations

import gc
import sys
from types import ModuleType

import pytest
import trio
from origin import serving
from running_proxy import http, running, until

from nono_trio.core.http.field_block import requests
from nono_trio.testing import LoopbackDialler

SECRET = "s3cr3t" + "0f0ne"
URL, DENIED = "http://o.test", "http://denied.test"
PIN = "o.test:80:8.8.8.8"
RULES = ["allow GET http://o.test/**", "deny GET http://o.test/none/**"]
ONCE = [
    http("GET", f"{URL}/a", f"Authorization: Bearer {SECRET}"),
    http("GET", f"{URL}/a", f"Cookie: k={SECRET}"),
    http("GET", f"{URL}/a", f"X-Api-Key: {SECRET}"),
    http("GET", f"{URL}/a?key={SECRET}"),
    http("GET", f"{URL}/http://user:{SECRET}@h/"),
    http("GET", f"{URL}/http%3A%2f%2f{SECRET}%40h/"),
    http("GET", f"{URL}/none/a%2Fb?key={SECRET}"),
    http("GET", f"{DENIED}/?key={SECRET}"),
    http("GET", f"{DENIED}/http://user:{SECRET}@h/"),
    http("GET", f"http://user:{SECRET}@o.test/"),
    http("POST", f"{URL}/a", "Content-Length: 11", body=SECRET.encode()),
    f"GET {URL}/a HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic {SECRET}\r\n\r\n".encode(),
]


def kept(root: object, text: str) -> bool:
    """Return whether a text is in anything that our modules or `root` hold, in caches also."""
    ours = [module for name, module in sys.modules.items() if name.startswith("nono_trio")]
    seen: dict[int, object] = {}  # holds the objects, so that no number comes twice
    left: list[object] = [root, *map(vars, ours)]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | ModuleType):
            continue
        seen[id(one)] = one
        if isinstance(one, bytes | bytearray):
            if text.encode() in one:
                return True
        elif isinstance(one, str):
            if text in one:
                return True
        elif not hasattr(one, "__globals__"):  # of a function: its module is among ours
            left += gc.get_referents(one)
    return False


@pytest.mark.parametrize("rules", [[], RULES], ids=["plain", "judged"])
async def test_no_secret_of_a_request_stays(rules):
    requests.forget_all()

    async def answers(stream: trio.SocketStream) -> None:
        while await stream.receive_some(65536):
            await stream.send_all(
                b"HTTP/1.1 200 OK\r\nSet-Cookie: %b\r\nETag: %b\r\nContent-Length: 11\r\n\r\n%b"
                % ((SECRET.encode(),) * 3)
            )

    async with (
        serving(answers) as origin,
        running(
            [] if rules else ["o.test:80"],
            resolve=[PIN], endpoints=rules, dialler=LoopbackDialler(origin.port),
        ) as proxy,
    ):  # fmt: skip
        for _ in range(2):
            for request in [*ONCE, http("GET", f"{URL}/seen-before")]:
                answer = await proxy.ask(request)
                assert answer is not None
        await until(lambda: origin.open == 0)
        proxy.recorder.events.clear()
        assert kept(proxy.proxy, "seen-before")  # so the search finds what is remembered
        assert not kept(proxy.proxy, SECRET)
