"""An OTLP receiver over HTTP on loopback, in a thread, which answers as a test says.

It parses requests with the official messages. An answer is a number (a status), "cut" (the
connection ends without an answer), "slow" (no answer until `release`), "partial" (taken, one record
rejected) or "page" (a login page with status 200); without one a request is taken.
"""

from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)


class Receiver:
    """The requests, in order: `taken` are the ids of records of requests that were taken."""

    def __init__(self) -> None:
        self.answers: list[object] = []
        self.retry_after: str | None = None
        self.refuses: set[str] = set()
        self.taken: list[str] = []
        self.bodies: list[str] = []
        self.requests = 0
        self.connections = 0
        self.fields: list[dict[str, str]] = []
        self.release = threading.Event()
        self.port = 0
        self.arrived = threading.Condition()

    def wait_for(self, ready):
        with self.arrived:
            assert self.arrived.wait_for(lambda: ready(self), 60)

    def url(self, path=""):
        return f"otlp+http://127.0.0.1:{self.port}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.server.receiver.connections += 1

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        receiver = self.server.receiver
        data = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["Content-Type"] == "application/x-protobuf"
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        request = ExportLogsServiceRequest.FromString(data)
        records = [
            record
            for one in request.resource_logs
            for scope in one.scope_logs
            for record in scope.log_records
        ]
        ids = [
            next(one.value.string_value for one in record.attributes if one.key == "log.record.uid")
            for record in records
        ]
        with receiver.arrived:
            receiver.requests += 1
            receiver.fields.append({**self.headers, ":path": self.path})
            answer = receiver.answers.pop(0) if receiver.answers else 200
            if receiver.refuses & {*ids}:
                answer = 400
            receiver.arrived.notify_all()
        if answer == "cut":
            self.close_connection = True
            return
        if answer == "slow":
            receiver.release.wait(60)
        status = answer if isinstance(answer, int) else 200
        if status == 200 and answer != "page":
            with receiver.arrived:
                receiver.taken += ids
                receiver.bodies += [record.body.string_value for record in records]
                receiver.arrived.notify_all()
        self._answer(status, answer)

    def _answer(self, status, answer):
        response = ExportLogsServiceResponse()
        kind = "text/html" if answer == "page" else "application/x-protobuf"
        if answer == "partial":
            response.partial_success.rejected_log_records = 1
            response.partial_success.error_message = "too \x1b[31mold"
        body = b"<html>log in</html>" if answer == "page" else response.SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if self.server.receiver.retry_after is not None and status != 200:
            self.send_header("Retry-After", self.server.receiver.retry_after)
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    receiver: Receiver

    def handle_error(self, request, client_address):
        """A client that was killed is no error."""


@contextmanager
def receiving(context=None):
    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.receiver = receiver = Receiver()
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.release.set()
        server.shutdown()
        server.server_close()
        thread.join(60)
