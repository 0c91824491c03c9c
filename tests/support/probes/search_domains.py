"""In a network of its own with `search corp.test` and `ndots:5`: what is asked for, name by name.

Run by tests/proxy/upstream/test_system_resolver.py under unshare(1). Prints JSON: for each name of
the command line, the questions that a DNS server on loopback has seen, the addresses, and the name
that has them.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import trio

from nono_trio.core.net import dns
from nono_trio.core.net.host import parse_host
from nono_trio.core.policy.network_policy import Policy
from nono_trio.proxy.limits import DEFAULT_LIMITS
from nono_trio.proxy.upstream.interfaces import DialFailed
from nono_trio.proxy.upstream.resolver import AddressResolver
from nono_trio.proxy.upstream.system_resolver import SystemResolver
from nono_trio.session.resolver_settings import system_search

KNOWN = {"good.test.corp.test": "10.0.0.1", "db.corp.test": "192.0.2.5", "whole.test": "192.0.2.6"}
FILES = {
    "/etc/resolv.conf": "nameserver 127.0.0.1\nsearch corp.test\noptions ndots:5 timeout:5\n",
    "/etc/hosts": "127.0.0.1 localhost\n192.0.2.7 filed.test filed\n",
    "/etc/nsswitch.conf": "hosts: files dns\n",
}


def cover_files() -> None:
    """Bind files of our own over the system's; they vanish with the mount namespace."""
    directory = Path(tempfile.mkdtemp())
    for number, (path, text) in enumerate(FILES.items()):
        own = directory / str(number)
        own.write_text(text)
        subprocess.run(["mount", "--bind", str(own), path], check=True)


def serve(server: socket.socket, asked: list[str]) -> None:
    while True:
        message, client = server.recvfrom(4096)
        query = dns.parse_query(message)
        asked.append(query.name)
        address = KNOWN.get(query.name)
        if address is None:
            answer = dns.empty_answer(query, dns.NO_SUCH_NAME)
        elif query.kind == dns.A:
            answer = dns.address_answer(query, IPv4Address(address), IPv6Address("::1"))
        else:
            answer = dns.empty_answer(query)
        server.sendto(answer, client)


async def look_up(name: str, asked: list[str]) -> dict[str, object]:
    policy = Policy.build([f"{name}:443"], search=system_search())
    directory = AddressResolver(policy, SystemResolver(), DEFAULT_LIMITS)
    asked.clear()
    try:
        found = await directory.addresses(parse_host(name), 443)
    except DialFailed as failed:
        return {"asked": sorted({*asked}), "failed": failed.reason, "hint": failed.hint}
    return {
        "asked": sorted({*asked}),
        "addresses": [one.address for one in found.addresses],
        "name": found.name,
    }


def main() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    cover_files()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    asked: list[str] = []
    threading.Thread(target=serve, args=(server, asked), daemon=True).start()
    print(json.dumps({name: trio.run(look_up, name, asked) for name in sys.argv[1:]}))


main()
