"""The demo's agent: it shows what a program in the cage can and can't do.

It knows nothing of nono-trio. It is an ordinary Python program, uses only the standard library, and
finds its proxy like every program: in HTTP_PROXY and HTTPS_PROXY. It prints one line for each
attempt: `ok` or `blocked`, the attempt, and its result.

    agent.py HTTP_URL HTTPS_URL    try everything once
    agent.py --steady HTTP_URL     send one request after the other, until the program is ended
"""

import base64
import hashlib
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

STREAM_BYTES = 8 * 1024 * 1024
READ_BYTES = 64 * 1024
TIMEOUT_SECONDS = 5.0  # of one attempt; everything in the cage answers or fails at once
PAUSE_SECONDS = 0.01  # between two steady requests, so that a person can follow

TRUSTED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ca.pem")


def report(word, what, outcome):
    print(f"agent: {word:<7} {what:<51} {outcome}", flush=True)


def attempt(what, action):
    """Run `action` and print its result; `action` returns a text or raises OSError."""
    try:
        report("ok", what, action())
    except urllib.error.HTTPError as error:
        lines = error.read().decode("ascii", "replace").splitlines()
        report("blocked", what, f"{error.code} {error.reason}")
        for line in lines:
            print(f"agent:           | {line}", flush=True)
    except urllib.error.URLError as error:
        report("blocked", what, error.reason)
    except OSError as error:
        report("blocked", what, error.strerror or error)


def get(url):
    with open_url(url) as answer:
        return f"{answer.status} {answer.read().decode().strip()}"


def stream(url):
    """Read a large body piece by piece and compare it with the digest that came before it."""
    digest, size = hashlib.sha256(), 0
    with open_url(url) as answer:
        while piece := answer.read(READ_BYTES):
            digest.update(piece)
            size += len(piece)
        sent = answer.headers["Repr-Digest"]
    received = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    return f"{answer.status} {size:,} bytes, digest {'fits' if sent == received else 'DIFFERS'}"


def open_url(url):
    context = ssl.create_default_context(cafile=TRUSTED)
    return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=context)


def get_directly(url):
    """Fetch like a program that does not know HTTP_PROXY."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=TIMEOUT_SECONDS) as answer:
        return f"{answer.status} {answer.read().decode().strip()}"


def talk(address, port):
    with socket.create_connection((address, port), TIMEOUT_SECONDS) as sock:
        sock.sendall(b"hello")
        return f"ANSWERED with {len(sock.recv(512))} bytes"


def send_datagram(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect((address, port))
        sock.send(b"hello")
        return f"ANSWERED with {len(sock.recv(512))} bytes"


def read(path):
    with open(os.path.expanduser(path), "rb") as file:
        return f"READ {len(file.read())} bytes"


def try_everything(http_url, https_url):
    attempt(f"GET {https_url}/hello", lambda: get(f"{https_url}/hello"))
    attempt(f"GET {http_url}/hello", lambda: get(f"{http_url}/hello"))
    large = f"{http_url}/stream/{STREAM_BYTES}"
    attempt(f"GET {large}", lambda: stream(large))

    attempt(f"GET {http_url}/hello, no proxy", lambda: get_directly(f"{http_url}/hello"))

    attempt("GET https://evil.example.net/", lambda: get("https://evil.example.net/"))
    attempt("GET http://evil.example.net/", lambda: get("http://evil.example.net/"))
    metadata = "http://169.254.169.254/latest/meta-data/"
    attempt(f"GET {metadata}", lambda: get(metadata))

    port = urlsplit(http_url).port
    attempt(f"connect to 127.0.0.1:{port}", lambda: talk("127.0.0.1", port))
    attempt("connect to 192.0.2.1:5432", lambda: talk("192.0.2.1", 5432))
    attempt("send UDP to 192.0.2.53:443", lambda: send_datagram("192.0.2.53", 443))
    attempt("read ~/.ssh/id_ed25519", lambda: read("~/.ssh/id_ed25519"))
    attempt("read /etc/shadow", lambda: read("/etc/shadow"))


def ask_steadily(http_url):
    while True:
        attempt(f"GET {http_url}/hello", lambda: get(f"{http_url}/hello"))
        time.sleep(PAUSE_SECONDS)


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__)
    if arguments[0] == "--steady":
        ask_steadily(arguments[1])
    try_everything(*arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
