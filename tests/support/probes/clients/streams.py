"""Reads server-sent events and talks to a WebSocket, an allowed and a denied one each. Prints one
JSON object."""

import json
import os
import sys

import httpx
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

events, sockets = sys.argv[1:]
told = {}
with httpx.Client() as client:
    lines = []
    with client.stream("GET", f"{events}/ok/events") as answer:
        for line in filter(None, answer.iter_lines()):
            lines.append(line)
            if len(lines) == 1:  # the origin sends the second event after this request only
                httpx.get(f"{events}/ok/heard")
    told["events"] = lines
    told["denied events"] = client.get(f"{events}/no/events").status_code
with connect(f"{sockets}/ok/socket") as socket:
    socket.send("hello")
    text = socket.recv(timeout=50)
    socket.send(os.urandom(80_000))  # it would be compressed otherwise
    told["socket"] = [text, len(socket.recv(timeout=50))]
try:
    connect(f"{sockets}/no/socket").close()
except InvalidStatus as refused:
    told["denied socket"] = refused.response.status_code
print(json.dumps(told))
