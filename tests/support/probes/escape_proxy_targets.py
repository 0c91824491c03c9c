"""Ways out through the proxy: forbidden addresses by their many spellings.

A refused address is never dialled. If the proxy answers with anything except a refusal (502, 504),
it has dialled the address, and the way is open even without an answer.
"""

from functools import partial

from escape_base import Stopped, attempt
from escape_proxy import authorization, talk

METADATA = {
    "plain": "169.254.169.254",
    "with a dot at the end": "169.254.169.254.",
    "as one number": "2852039166",
    "in hexadecimal": "0xa9fea9fe",
    "in octal": "0251.0376.0251.0376",
    "in three parts": "169.254.43518",
    "mapped to IPv6": "[::ffff:169.254.169.254]",
    "mapped to IPv6, in hexadecimal": "[::ffff:a9fe:a9fe]",
    "compatible IPv6": "[::169.254.169.254]",
    "by NAT64": "[64:ff9b::a9fe:a9fe]",
    "by 6to4": "[2002:a9fe:a9fe::1]",
    "in full-width digits": "\uff11\uff16\uff19.254.169.254",
    "AWS over IPv6": "[fd00:ec2::254]",
    "Azure's": "168.63.129.16",
    "Alibaba's": "100.100.100.200",
    "by Google's name": "metadata.google.internal",
    "any link-local address": "169.254.1.1",
}
LOOPBACK = {
    "plain": "127.0.0.1",
    "in two parts": "127.1",
    "as one number": "2130706433",
    "in hexadecimal": "0x7f000001",
    "in octal": "0177.0.0.1",
    "mapped to IPv6": "[::ffff:127.0.0.1]",
    "IPv6": "[::1]",
    "unspecified": "0.0.0.0",
    "unspecified, IPv6": "[::]",
    "by name in capitals": "LOCALHOST",
    "by name with a dot at the end": "localhost.",
}
REFUSALS = (b"400", b"403", b"407")


def fetch(host, name, port):
    """Ask for it by GET and by CONNECT; open unless both are refused."""
    encoded = name.encode("utf-8").decode("latin-1")
    rest = f" HTTP/1.1\r\nHost: {encoded}:{port}\r\n{authorization(host)}\r\n\r\n"
    for ask in (f"GET http://{encoded}:{port}/{host.tag}", f"CONNECT {encoded}:{port}"):
        answer = talk(host, ask + rest, f"GET /{host.tag} HTTP/1.1\r\n\r\n")
        status = answer.split(b"\r\n")[0]
        if host.secret.encode() in answer or (status and status[9:12] not in REFUSALS):
            return status.decode("latin-1")
    raise Stopped(status.decode("latin-1") or "closed without an answer")


for _how, _name in METADATA.items():
    attempt(f"the metadata address, {_how}")(partial(fetch, name=_name, port=80))
for _how, _name in LOOPBACK.items():
    attempt(f"the host's loopback through the proxy, {_how}")(
        lambda host, name=_name: fetch(host, name, host.tcp)
    )
