"""An S3 server that can fail: moto's, in a thread, with one function that decides what goes wrong with a request."""

from __future__ import annotations

import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

KEY, SECRET = "AKIAEXAMPLEOFAKEY", "a/secret+of/nobody"
HANG = 2.0  # seconds that a request hangs, longer than a client of the tests waits

DENIED = f"<Error><Code>InvalidAccessKeyId</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>".encode()
SLOW = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
UNKNOWN = b"<Error><Code>NotImplemented</Code></Error>"
ANSWERS = {"503": ("503 Slow Down", SLOW), "403": ("403 Forbidden", DENIED), "501": ("501 Not Implemented", UNKNOWN)}

Fault = Callable[[str, str], str | None]  # method and path of a request -> what goes wrong with it


def nothing(method: str, path: str) -> str | None:
    """No fault."""
    return None


class ObjectStore:
    """A running server with one bucket.

    `fault` says of a request: "503", "403", "501" (answered so, and not done); "cut" (the connection ends before it is
    done); "lost" (it is done, and the connection ends before the answer); "hang" (it is done, and the answer comes too
    late); "careless" (done whatever its conditions say).
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.fault: Fault = nothing
        self.requests: list[str] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/bucket", method="PUT")).close()

    def environment(self) -> Mapping[str, str]:
        """Where the store's own tools look."""
        found = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        return {**found, "AWS_ENDPOINT_URL": self.address, "AWS_CONFIG_FILE": "/dev/null"}

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        kind = self.fault(method, path)
        if kind in ANSWERS:
            status, body = ANSWERS[kind]
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        if kind == "careless":
            for name in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
                environ.pop(name, None)
        if kind == "cut":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)
            return self._cut(environ, start)
        answer: Iterable[bytes] = self._app(environ, start)
        if kind == "lost":
            return self._cut(environ, start)
        if kind == "hang":
            time.sleep(HANG)
        return answer

    def _cut(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        connection: socket.socket = environ["werkzeug.socket"]
        connection.shutdown(socket.SHUT_RDWR)
        start("200 OK", [])
        return []
