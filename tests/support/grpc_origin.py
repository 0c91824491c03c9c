"""A gRPC server, run as a program: `grpc_origin.py CA.pem CA.key HOST`. Prints its port, and then
the path of each call."""

from __future__ import annotations

import datetime
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from nono_trio.proxy.intercept.ca import own_authority

PEM = serialization.Encoding.PEM


def credentials(certificate: bytes, key: bytes, host: str) -> grpc.ServerCredentials:
    now = datetime.datetime.now(datetime.UTC)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    leaf = own_authority(certificate, key, now).sign_leaf(host, leaf_key.public_key(), now)
    private = leaf_key.private_bytes(
        PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_server_credentials([(private, leaf.public_bytes(PEM))])


def unary(request, context):
    print("/ok.Echo/Unary", flush=True)
    context.set_trailing_metadata((("x-left", "2"),))
    return request[::-1] + dict(context.invocation_metadata())["x-asked"].encode()


def chat(requests, context):
    print("/ok.Echo/Chat", flush=True)
    for word in requests:
        yield word.upper()
    context.set_trailing_metadata((("x-end", "bye"),))
    yield b"END"


def fails(request, context):
    print("/ok.Echo/Fails", flush=True)
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: ä")


def denied(request, context):
    print("/no.Echo/Unary", flush=True)
    return b""


def main(certificate: str, key: str, host: str) -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    found = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Fails": grpc.unary_unary_rpc_method_handler(fails),
    }
    other = {"Unary": grpc.unary_unary_rpc_method_handler(denied)}
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler("ok.Echo", found),
            grpc.method_handlers_generic_handler("no.Echo", other),
        ]
    )
    secret = credentials(Path(certificate).read_bytes(), Path(key).read_bytes(), host)
    print(server.add_secure_port("127.0.0.1:0", secret), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
