"""Look into runs on a page of this machine's browser."""

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lowerbound.errors import UserError
from lowerbound.explorer.safety import kept_token
from lowerbound.explorer.server import HOST, Service, bound
from lowerbound.runs.run import Run
from lowerbound.verbs.base import Device, Report, Runs, Told, Whole, verb


@dataclass(frozen=True, eq=False)
class Ended(Report):
    """Which runs were shown, and where."""

    address: str
    runs: list[str]

    def shown(self) -> Any:
        return f"{self.address} has ended"


BUNDLED = "pretrained:vae-mnist"


@verb
def explore(
    runs: Runs = (),
    /,
    *,
    port: Whole = 7860,
    open: Annotated[bool, Parameter(negative="")] = False,
    device: Device = "auto",
    progress: Told = False,
) -> Ended:
    """Look into runs in the browser: pull at their latents, edit images, draw.

    The page is served to this machine alone, and needs no network. Ctrl-C ends it.

    Args:
        runs: by default the newest below runs/; without one, a model that comes with the package
        port: where it is served; where that is taken, the next one that is free
        open: open the browser too
    """
    if not 0 < port < 2**16:
        raise UserError(f"--port {port}: expected a number from 1 to 65535")
    shown = [*runs] or [newest(Path("runs"))]
    at, token = bound(port), kept_token()
    found = at.getsockname()[1]
    if found != port:
        progress.say(f"port {port} is taken; {found} is the next that is free")
    address = f"http://{HOST}:{found}/"

    def ready() -> None:
        progress.say(f"{', '.join(run.place for run in shown)}: {address}?token={token}")
        if open and not webbrowser.open(f"{address}?token={token}"):
            progress.say("--open: there is no browser to be opened; open the address yourself")

    Service(shown, device, at, token, ready).run()
    return Ended(address, [run.place for run in shown])


def newest(folder: Path) -> Run:
    """The run of a folder that was trained last; where there is none, a model that comes with the package."""
    found = sorted(folder.glob("*/config.json"), key=_changed, reverse=True)
    return Run.open(found[0].parent if found else BUNDLED)


def _changed(config: Path) -> float:
    weights = config.parent / "model.safetensors"
    return (weights if weights.is_file() else config).stat().st_mtime
