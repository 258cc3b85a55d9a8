"""An object server on the loopback, for tests and measurements of what is read from servers: it gives ranges of files,
after a latency, and fails as it is told to."""

import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Objects:
    """The files below a folder at `url`. `asked`: the names and ranges that were asked for, in order.

    latency: seconds before each answer. rate: bytes a second of each answer, None for as many as there are. status:
    given a name and how often anything was asked for, the HTTP status to answer with in place of the file, or None.
    """

    def __init__(self, folder: Path, latency: float = 0.0, rate: float | None = None):
        self.folder, self.latency, self.rate = folder, latency, rate
        self.status: Callable[[str, int], int | None] = lambda name, n: None
        self.ranges = True  # False: whole files whatever is asked
        self.asked: list[tuple[str, str | None]] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        objects = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 2**16

            def do_GET(self) -> None:
                objects.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.lstrip("/"), request.headers.get("Range")
        with self.lock:
            self.asked.append((name, wanted))
            status = self.status(name, len(self.asked))
        time.sleep(self.latency)
        path = self.folder / name
        if status is None and not path.is_file():
            status = 404
        if status is not None:
            self._send(request, status, b"")
            return
        size = path.stat().st_size
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "") if self.ranges else None
        if found is None:
            self._send(request, 200, path.read_bytes())
            return
        start, end = int(found[1]), min(size, int(found[2] or size - 1) + 1)
        if start >= size:
            self._send(request, 416, b"")
            return
        with path.open("rb") as file:
            file.seek(start)
            self._send(request, 206, file.read(end - start), f"bytes {start}-{end - 1}/{size}")

    def _send(self, request: BaseHTTPRequestHandler, status: int, body: bytes, given: str = "") -> None:
        if self.rate is not None:
            time.sleep(len(body) / self.rate)
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        if given:
            request.send_header("Content-Range", given)
        request.end_headers()
        request.wfile.write(body)

    def __enter__(self) -> "Objects":
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
