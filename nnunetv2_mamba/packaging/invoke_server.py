"""A server of grand-challenge's invoke API: ``GET /health`` and ``POST /invoke``. Knows HTTP, and nothing of images.

Work is done in the main thread, one request after another: there a signal can end it in order. Every connection has a
thread, so that health is answered during work. Which words of the protocol are known, and from where, says
``docs/challenges.md``.
"""

from __future__ import annotations

import queue
import select
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import NoReturn

PORT = 4743  # the platform's
# When the request came, on time.perf_counter, and whether its sender still waits; returns what failed, a line each.
Work = Callable[[float, Callable[[], bool]], Sequence[str]]

_LONGEST_BODY = 1 << 20  # bytes; the platform sends none
_READ_TIME = 30.0  # seconds that a client has to send its request
_POLL_TIME = 0.1  # seconds between looks whether a signal came and whether the server ends
_ANSWER_TIME = 1.0  # seconds that a client has to take its answer where the server ends


def serve(load: Callable[[], Work], port: int = PORT) -> NoReturn:
    """Answer requests until an exception, such as that of a signal (``processes.signals_raise``), ends it.

    ``/health`` is 503 until ``load`` returns, then 200. ``/invoke`` is 201 where ``work`` names no failure, else 500
    with the failures as text; requests that come meanwhile wait for their turn. One whose sender has gone is left out.
    Where the server ends, requests that wait are answered 503.

    Args:
        load: makes the work ready; what it raises ends the server.
        port: on all addresses of this machine.

    Raises:
        OSError: for a port that is taken or not to be had.
    """
    current = None
    with _Server(port) as server:
        threading.Thread(target=server.serve_forever, args=(_POLL_TIME,), daemon=True).start()
        try:
            work = load()
            server.ready = True
            print(f"ready for requests on port {port}", flush=True)
            while True:
                current = server.next_request()
                if not current.is_wanted():
                    print("invoke: ABANDONED: nobody waits for the answer any more", file=sys.stderr, flush=True)
                    continue
                failures = work(current.came, current.is_wanted)
                current.answer(HTTPStatus.INTERNAL_SERVER_ERROR if failures else HTTPStatus.CREATED, failures)
        finally:
            server.shutdown()
            server.send_away(current)


class _Request:
    """A request that waits for its work, in the queue of the main thread and in the thread of its connection."""

    def __init__(self, connection: socket.socket):
        self.came = time.perf_counter()
        self.sent = threading.Event()
        self._connection = connection
        self._answered = threading.Event()
        self._answer: tuple[HTTPStatus, str] | None = None

    def is_wanted(self) -> bool:
        """Whether the client has not closed its end of the connection."""
        try:
            readable, _, _ = select.select([self._connection], [], [], 0)
            return not readable or self._connection.recv(1, socket.MSG_PEEK) != b""
        except (OSError, ValueError):  # reset, or closed here
            return False

    def answer(self, status: HTTPStatus, lines: Sequence[str]) -> None:
        """Let ``wait`` return; the first answer counts."""
        if self._answer is None:
            self._answer = status, "\n".join(lines) or status.phrase
            self._answered.set()

    def wait(self) -> tuple[HTTPStatus, str]:
        self._answered.wait()
        return self._answer


class _Server(socketserver.ThreadingTCPServer):
    """Not ``http.server``'s own, which asks the network for its name: there is none."""

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # where it means that two may have one port
    request_queue_size = 64

    def __init__(self, port: int):
        self.ready = False
        self.requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        try:
            super().__init__(("", port), _Handler)
        except OSError as error:
            raise OSError(f"--port {port} cannot be served: {error.strerror}; end what has it") from error

    def next_request(self) -> _Request:
        """Wait in short steps: where another thread gets a signal, Python calls its handler when this one wakes."""
        while True:
            with suppress(queue.Empty):
                return self.requests.get(timeout=_POLL_TIME)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes before its answer, or sends none of what it announced, is no fault to print."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def send_away(self, current: _Request | None) -> None:
        """Answer the request in work and those in the queue, and give their threads a moment to send it."""
        left = [] if current is None else [current]
        with suppress(queue.Empty):
            while True:
                left.append(self.requests.get_nowait())
        for request in left:
            request.answer(HTTPStatus.SERVICE_UNAVAILABLE, ["the server was asked to end"])
        latest = time.monotonic() + _ANSWER_TIME
        for request in left:
            request.sent.wait(max(latest - time.monotonic(), 0))


class _Handler(BaseHTTPRequestHandler):
    """One request, then the connection is closed."""

    server: _Server
    server_version = "nnunetv2-mamba"
    timeout = _READ_TIME

    def do_GET(self) -> None:
        if self._path() == "/health":
            ready = self.server.ready
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            self._say(status, "ready" if ready else "the model is being loaded")
        else:
            self._refuse("/invoke", "POST")

    def do_POST(self) -> None:
        self._read_body()
        if self._path() != "/invoke":
            self._refuse("/health", "GET")
        elif not self.server.ready:
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, "the model is being loaded: wait until GET /health is 200")
        else:
            request = _Request(self.connection)
            self.server.requests.put(request)
            try:
                self._say(*request.wait())
            finally:
                request.sent.set()

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _read_body(self) -> None:
        """Read a body away: a connection closed with bytes unread is reset, and the answer lost."""
        length = self.headers.get("Content-Length", "0")
        if length.isdecimal():
            self.rfile.read(min(int(length), _LONGEST_BODY))

    def _refuse(self, other: str, method: str) -> None:
        if self._path() == other:
            self._say(HTTPStatus.METHOD_NOT_ALLOWED, f"{other} takes {method}", Allow=method)
        else:
            self._say(HTTPStatus.NOT_FOUND, "there are GET /health and POST /invoke")

    def _say(self, status: HTTPStatus, text: str, **headers: str) -> None:
        body = f"{text}\n".encode()
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), **headers}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: health is asked often, and what fails is said by the work."""
