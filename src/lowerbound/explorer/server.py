"""The server: the page and its files, one socket for questions, one door for images."""

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from lowerbound.errors import UserError
from lowerbound.explorer.lanes import AT_ONCE, Lanes
from lowerbound.explorer.messages import Answer, Question, failed
from lowerbound.explorer.panels.base import Answers
from lowerbound.explorer.registry import all_panels
from lowerbound.explorer.safety import Guard
from lowerbound.explorer.shelf import Shelf
from lowerbound.explorer.uploads import MAX_BYTES, Refused, Uploads
from lowerbound.runs.run import Run

STATIC = Path(__file__).parent / "static"
HOST = "127.0.0.1"
SOCKETS = 16  # pages at a time
MESSAGE = 2**18  # bytes of a question
PORTS = 50  # that are tried, one after another


class Desk:
    """Answers every page's questions."""

    def __init__(self, shelf: Shelf):
        self.shelf = shelf
        self.pool = ThreadPoolExecutor(SOCKETS * AT_ONCE, thread_name_prefix="explore")
        self.sockets = 0

    def find(self, question: Question) -> Answers:
        """Raises UserError for what nobody answers."""
        if question.stop:  # it took the place of what was asked before, and there is nothing else to it
            return Answer()
        if (question.panel, question.do) == ("", "runs"):
            return Answer({"runs": [self._about(i) for i in range(len(self.shelf))]})
        panel = all_panels().get(question.panel)
        if panel is None or question.do not in panel.actions:
            raise UserError(f"no {question.panel}.{question.do}")
        shown = self.shelf[question.run]
        if not panel.fits(shown):
            shown.run.again()
            _ = shown.model  # where there is neither, that is why, and said
            raise UserError(f"the panel {panel.title} is not for {shown.name}")
        return panel.actions[question.do](panel, shown, question.given)

    def _about(self, place: int) -> dict[str, Any]:
        """A run, as the page shows it, and the panels that fit."""
        shown = self.shelf[place]
        run, facts = shown.run, shown.run.facts
        problem = ""
        try:
            found = shown.model
            parameters = sum(p.numel() for p in found.parameters())
        except UserError as e:
            problem, parameters = str(e), 0
        fitting = [p for p in all_panels().values() if p.fits(shown)]
        return {
            "name": shown.name,
            "recipe": run.name,
            "model": run.recipe.model.type_name().rpartition(".")[2],
            "about": run.recipe.about.model,
            "parameters": parameters,
            "data": facts.name,
            "shape": [*facts.shape],
            "levels": shown.levels,
            "panels": [{"name": p.name, "title": p.title} for p in fitting],
            "problem": problem,
        }


def application(runs: Sequence[Run], device: torch.device, folder: Path) -> Starlette:
    """The application, without its guard. folder: for what pages send."""
    uploads = Uploads(folder)
    desk = Desk(Shelf(runs, device, uploads))

    async def page(_: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def upload(request: Request) -> Response:
        try:
            data = await _body(request)
            content_type = request.headers.get("content-type", "")
            name = await asyncio.get_running_loop().run_in_executor(desk.pool, uploads.keep, data, content_type)
        except Refused as e:
            return JSONResponse({"error": str(e), "again": e.again}, e.status)
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse({"image": f"upload:{name}"})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        desk.pool.shutdown(wait=False, cancel_futures=True)

    routes = [
        Route("/", page),
        Route("/images", upload, methods=["POST"]),
        WebSocketRoute("/socket", lambda websocket: _talk(websocket, desk)),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _body(request: Request) -> bytes:
    """What is sent, as far as it may go. Raises Refused for more."""
    told = request.headers.get("content-length", "0")
    parts, size = [], 0
    if not told.isdecimal() or int(told) > MAX_BYTES:
        raise Refused(f"more than {MAX_BYTES >> 20} MiB", 413, again=True)
    async for part in request.stream():
        size += len(part)
        if size > MAX_BYTES:
            raise Refused(f"more than {MAX_BYTES >> 20} MiB", 413, again=True)
        parts.append(part)
    return b"".join(parts)


async def _talk(websocket: WebSocket, desk: Desk) -> None:
    """One page, as long as it is open."""
    await websocket.accept()
    if desk.sockets >= SOCKETS:
        return await websocket.close(4429, f"{SOCKETS} pages are open already")
    desk.sockets += 1
    sending = asyncio.Lock()

    async def send(data: bytes) -> None:
        async with sending:
            try:
                await websocket.send_bytes(data)
            except (WebSocketDisconnect, RuntimeError) as e:  # RuntimeError: of all that is sent afterwards
                raise ConnectionError("the page is gone") from e

    lanes = Lanes(desk.find, send, desk.pool)
    try:
        while True:
            text = await websocket.receive_text()
            try:
                await lanes.put(Question.of(text))
            except UserError as e:
                await send(failed(None, str(e)))
    except (WebSocketDisconnect, ConnectionError, KeyError):  # KeyError: bytes, where text is expected
        pass
    finally:
        desk.sockets -= 1
        await lanes.close()


# ---- running it


def bound(port: int) -> socket.socket:
    """A socket of this machine's at the port, or the next one that is free. Raises UserError where none is."""
    for number in range(port, min(port + PORTS, 2**16)):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if sys.platform != "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just ended is no hindrance
        try:
            found.bind((HOST, number))
            found.listen(128)
        except OSError:
            found.close()
            continue
        return found
    raise UserError(f"--port {port}: taken, and so are the {PORTS - 1} after it; give another")


class Service:
    """A server of some runs, at a socket. ready: called once pages are answered."""

    def __init__(
        self,
        runs: Sequence[Run],
        device: torch.device,
        at: socket.socket,
        token: str,
        ready: Callable[[], None] = lambda: None,
    ):
        self.at = at
        self._folder = tempfile.TemporaryDirectory(prefix="lowerbound-explore-")
        guarded: ASGIApp = Guard(application(runs, device, Path(self._folder.name)), token, at.getsockname()[1])
        config = uvicorn.Config(
            guarded,
            log_level="warning",
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=MESSAGE,
            ws_per_message_deflate=False,  # pictures of a few kB, to this machine
            limit_concurrency=8 * SOCKETS,
            timeout_graceful_shutdown=1,
            server_header=False,
        )
        self._server = _Server(config, ready)

    def run(self) -> None:
        """Serve until it is stopped, or interrupted."""
        try:
            with suppress(KeyboardInterrupt):
                self._server.run(sockets=[self.at])
        finally:
            self.at.close()
            self._folder.cleanup()

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]):
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
