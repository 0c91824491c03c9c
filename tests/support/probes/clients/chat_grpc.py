"""Calls a gRPC server: one call of each kind, and one that the rules deny. Prints a JSON object."""

import json
import queue
import sys

import grpc

told = {}
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    fields = (("x-asked", "1"),)
    answer, call = channel.unary_unary("/ok.Echo/Unary").with_call(
        b"one", timeout=50, metadata=fields
    )
    told["unary"] = [answer.decode(), dict(call.trailing_metadata())]
    waiting = queue.SimpleQueue()
    call = channel.stream_stream("/ok.Echo/Chat")(iter(waiting.get, None), timeout=50)
    words = []
    for word in (b"a", b"b", b"c"):
        waiting.put(word)
        words.append(next(call).decode())  # the answer comes while the call is still open
    waiting.put(None)
    told["chat"] = [words, [one.decode() for one in call], dict(call.trailing_metadata())]
    try:
        channel.unary_unary("/ok.Echo/Fails")(b"", timeout=50)
    except grpc.RpcError as error:
        told["fails"] = [error.code().name, error.details()]
    try:
        channel.unary_unary("/no.Echo/Unary")(b"", timeout=50)
    except grpc.RpcError as error:
        told["denied"] = [error.code().name, error.details()]
print(json.dumps(told))
