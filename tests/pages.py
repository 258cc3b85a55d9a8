"""A server of the page beside the tests, and whoever talks to it by hand."""

import http.client
import json
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from websockets.sync.client import ClientConnection, connect

from lowerbound import train
from lowerbound.explorer.server import Service, bound
from lowerbound.runs.run import Run

TOKEN = "a" * 40


@dataclass
class Answered:
    """What came back: the document, and its arrays."""

    document: dict[str, Any]
    parts: dict[str, np.ndarray]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        assert "error" not in self.document, self.error
        return self.parts

    @property
    def said(self) -> dict[str, Any]:
        assert "error" not in self.document, self.error
        return self.document["said"]

    @property
    def error(self) -> str:
        return self.document["error"]["text"]


def read(frame: bytes) -> Answered:
    (length,) = struct.unpack_from("<I", frame)
    document, at, arrays = json.loads(frame[8 : 8 + length]), 8 + length, {}
    for a in document.get("arrays", []):
        kind, count = np.dtype(a["type"]), int(np.prod(a["shape"]))
        arrays[a["name"]] = np.frombuffer(frame, kind, count, at).reshape(a["shape"])
        at += -(-count * kind.itemsize // 8) * 8
    return Answered(document, arrays)


@dataclass
class Page:
    """A server that runs, as a page sees it."""

    port: int
    token: str = TOKEN

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; by itself with the token in a cookie, and from a page of its own."""
        own = {"host": self.host, "origin": f"http://{self.host}", "cookie": f"lowerbound-{self.port}={TOKEN}"}
        own |= {k.replace("_", "-"): v for k, v in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        if body and "content-length" not in own:
            own["content-length"] = str(len(body))
        for name, value in own.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders(body or None)
        with connection.getresponse() as response:
            found = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        connection.close()
        return found

    def upload(self, data: bytes, kind: str = "image/png") -> tuple[int, dict[str, Any]]:
        status, _, body = self.request("POST", "/images", data, content_type=kind)
        return status, json.loads(body)

    def socket(self, **headers: str) -> ClientConnection:
        own = {"cookie": f"lowerbound-{self.port}={TOKEN}"} | headers
        origin = own.pop("origin", f"http://{self.host}")
        limits = {"open_timeout": 20, "close_timeout": 1, "max_size": 2**26}
        return connect(f"ws://{self.host}/socket", origin=origin, additional_headers=own, **limits)

    def ask(self, panel: str, do: str, run: int = 0, **given: Any) -> Answered:
        """One question of a page of its own, and its last answer."""
        with self.socket() as socket:
            return ask(socket, panel, do, run, **given)


def ask(socket: ClientConnection, panel: str, do: str, run: int = 0, **given: Any) -> Answered:
    socket.send(json.dumps({"id": 1, "panel": panel, "do": do, "run": run, "given": given}))
    while (answer := read(socket.recv(60))).document.get("more"):  # pyright: ignore[reportArgumentType]
        pass
    return answer


@contextmanager
def serving(runs: Sequence[Run], port: int = 17860, token: str = TOKEN) -> Iterator[Page]:
    """A server in a thread, which is gone afterwards."""
    at = bound(port)
    number = at.getsockname()[1]
    begun = threading.Event()
    service = Service(runs, torch.device("cpu"), at, token, begun.set)
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    assert begun.wait(20), "the server does not begin"
    try:
        yield Page(number, token)
    finally:
        service.stop()
        thread.join(20)
        assert not thread.is_alive(), "the server does not end"


def tiny(folder: Path, *, label: bool = False) -> Run:
    """A VAE of digits, hardly trained."""
    words = ["model.latent=20", "train.steps=60", "train.valid_every=60", "train.batch=64"]
    words += ["data.label=true"] if label else []
    return train("vae", *words, data="digits", out=folder, device="cpu")


def expect(what: Any) -> Any:
    """Playwright's, which waits; it is imported where there is a browser."""
    from playwright.sync_api import expect

    return expect(what)


def expect_accessible(page: Any) -> None:
    """axe finds nothing in a page of Playwright's as it stands, and it is no wider than the screen."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"


def expect_reached(page: Any) -> None:
    """The key Tab comes to every control that is seen and not disabled."""
    count = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, a')]"
        ".filter(e => e.checkVisibility() && !e.disabled && e.tabIndex >= 0).length"
    )
    seen = set()
    page.evaluate("document.body.focus()")
    for _ in range(count + 2):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                "() => { const e = document.activeElement; e.dataset.seen ??= Math.random(); return e === document.body"
                " ? '' : e.dataset.seen }"
            )
        )
    assert len(seen - {""}) >= count
