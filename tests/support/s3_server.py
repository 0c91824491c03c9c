"""An S3 server on loopback (moto), and a client of it with the store's own library."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Bucket:
    name: str
    files: Any


@dataclass
class S3:
    """A running server; `variables` lead a client to it."""

    endpoint: str
    files: Any = None
    _numbers: itertools.count = field(default_factory=itertools.count)
    _refusing: Any = None

    @property
    def variables(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def new_bucket(self) -> Bucket:
        import s3fs

        if self.files is None:
            self.files = s3fs.S3FileSystem(
                key="testing",
                secret="testing",
                endpoint_url=self.endpoint,
                skip_instance_cache=True,
                use_listings_cache=False,
            )
        name = f"my-bucket-{next(self._numbers)}"
        self.files.mkdir(name)
        return Bucket(name, self.files)

    def refuse(self, refused: bool) -> None:
        """Let the server answer each request with 403, or not."""
        self._refusing.on = refused


class _Refusing:
    """The application, or 403 for every request."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self.on = False

    def __call__(self, environ: Any, start_response: Any) -> Any:
        if not self.on:
            return self.application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]


@contextlib.contextmanager
def running_s3():
    """Run one on a free port of loopback until the block ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import threading

        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server
    application = _Refusing(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield S3(f"http://127.0.0.1:{server.server_port}", _refusing=application)
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()
