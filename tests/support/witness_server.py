"""A C2SP witness that keeps state: a process of its own. It knows one log, by its verifier key.

    python witness_server.py STATE-FILE VERIFIER-KEY SEED-HEX [CERTIFICATE KEY]

It prints its port and its verifier key. The state is "SIZE ROOT" and is replaced before an answer.
`fixed` of a server, if set, is "STATUS" or "STATUS BODY" and is all that it says.
"""

from __future__ import annotations

import base64
import datetime
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nono_trio.audit.keys.signature import is_ed25519
from nono_trio.core.proof import tree
from nono_trio.core.proof.note import parse_note, parse_verifier_key
from nono_trio.core.proof.tree_head import parse_tree_head
from nono_trio.core.proof.witness import WitnessKey
from nono_trio.proxy.intercept.ca import own_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority

NAME = "witness.example/w1"
HOST = "witness.example"


class Witness:
    """The memory of one witness, and its answers."""

    def __init__(self, state, vkey, seed):
        self.state = Path(state)
        self.origin, self.log_key = parse_verifier_key(vkey)
        self.key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        self.public = WitnessKey(NAME, self.key.public_key().public_bytes(*raw))

    def last(self):
        if not self.state.exists():
            return 0, b""
        size, root = self.state.read_text().split()
        return int(size), bytes.fromhex(root)

    def add(self, body):
        head, _, checkpoint = body.partition(b"\n\n")
        first, *lines = head.decode("ascii").split("\n")
        word, _, old = first.partition(" ")
        note = parse_note(checkpoint)
        new = parse_tree_head(note.text)
        if word != "old" or int(old) > new.size:
            return 400, b""
        if new.origin != self.origin:
            return 404, b""
        signature = note.signature_of(self.origin, self.log_key)
        if signature is None or not is_ed25519(self.log_key, signature, note.text.encode()):
            return 403, b""
        size, root = self.last()
        if int(old) != size or (size == new.size and root != new.root):
            return 409, f"{size}\n".encode()
        proof = [base64.b64decode(one) for one in lines]
        if size and not tree.is_consistent(size, new.size, proof, root, new.root):
            return 422, b""
        written = self.state.with_suffix(".new")
        written.write_text(f"{new.size} {new.root.hex()}")
        written.replace(self.state)
        now = int(time.time())
        signed = self.key.sign(f"cosignature/v1\ntime {now}\n{note.text}".encode())
        data = self.public.key_id + now.to_bytes(8, "big") + signed
        return 200, f"— {NAME} {base64.b64encode(data).decode()}\n".encode()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fixed = self.server.fixed
        if fixed:
            status, _, text = fixed.partition(" ")
            answer = int(status), text.encode()
        elif self.path != "/w/add-checkpoint":
            answer = 404, b""
        else:
            answer = self.server.witness.add(body)
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    def log_message(self, *_arguments):
        pass


@contextmanager
def running(state, vkey, own=()):
    """A witness in a process of its own; yields its URL with its key. `own` are the files of an
    authority: then it is at HOST under TLS."""
    path = os.pathsep.join(one for one in sys.path if one)
    with subprocess.Popen(
        [sys.executable, __file__, str(state), vkey, "07" * 32, *map(str, own)],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:  # fmt: skip
        try:
            port, key = process.stdout.readline().split()
            place = f"https://{HOST}" if own else "http://127.0.0.1"
            yield f"{place}:{port}/w#{key}"
        finally:
            process.kill()


def main():
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.fixed = ""
        server.witness = Witness(*sys.argv[1:4])
        if sys.argv[4:]:
            certificate, key = (Path(one).read_bytes() for one in sys.argv[4:])
            authority = own_authority(certificate, key, datetime.datetime.now(datetime.UTC))
            context = trio.run(SessionAuthority(authority).server_context, HOST)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        print(server.server_address[1], server.witness.public.text(), flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
