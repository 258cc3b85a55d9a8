"""Write a model for programs that have no lowerbound: ONNX, a program of torch.export, or a web page."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowerbound.errors import UserError, did_you_mean
from lowerbound.exporting import graphs
from lowerbound.exporting.facts import told
from lowerbound.exporting.parts import Part, parts
from lowerbound.model import Model
from lowerbound.runs import lock
from lowerbound.runs.run import Run
from lowerbound.verbs.base import Out, Report, Told, called, verb
from lowerbound.verbs.export.page import write_page

KINDS = (".onnx", ".pt2", ".html")


@dataclass(frozen=True, eq=False)
class Exported(Report):
    """files: of each part its path, bytes, inputs, outputs and the largest difference to torch. left_out: part -> why
    it is in no file. notes: what else is to be said of it."""

    run: str
    model: str
    files: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    remarks: list[str] = field(default_factory=list, metadata=called("notes"))

    def shown(self) -> str:
        return "\n".join(f"{f['path']}: {self._about(f)}" for f in self.files.values())

    def _about(self, file: dict[str, Any]) -> str:
        ports = [", ".join(p["name"] for p in file[side]) for side in ("inputs", "outputs")]
        return f"{' -> '.join(ports)}; {file['bytes'] / 1e6:.1f} MB, within {file['difference']:.1g} of torch"

    def notes(self) -> list[str]:
        return [*self.remarks, *(f"{name} is left out: {why}" for name, why in self.left_out.items())]


@verb
def export(run: Run, /, *, out: Out = None, part: str | None = None, progress: Told = False) -> Exported:
    """Write a model for programs that have no lowerbound: ONNX, a program of torch.export, or a web page.

    Each part of the model (encoder, decoder, a step of its sampler) is a file of its own beside OUT: model.onnx becomes
    model.encoder.onnx, model.decoder.onnx and so on. It is checked against torch on other inputs and in other batches
    than it is traced with. Labels, ranges and how images are prepared are in its metadata.

    A page.html is one file that runs the decoder of real latents in a browser, with sliders as `explore` has them:
    without Python, without a network.

    Args:
        out: ends in .onnx, .pt2 or .html
        part: only this one, which is then the file itself

    Raises ModelError for a model that no graph can say.
    """
    path = _checked(out)
    lock.tell(run.path, progress)
    if path.suffix == ".html":
        return _page(run, path, part)
    model = run.load("cpu")
    found, facts = _wanted(parts(model), part, model), told(run, model)
    files: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    count = progress.count("exporting")
    for done, one in enumerate(found):
        file = path if part is not None else path.with_suffix(f".{one.name}{path.suffix}")
        try:
            files[one.name] = _written(model, one, file, facts)
        except graphs.NotInFormat as e:
            left_out[one.name] = str(e)
        count(done + 1, len(found))
    if not files:
        raise UserError(f"--out {path}: {next(iter(left_out.values()))}")
    return Exported(str(run.path), run.recipe.model.type_name(), files, left_out)


def _page(run: Run, path: Path, part: str | None) -> Exported:
    if part is not None:
        raise UserError(f"--part {part}: a page has the decoder alone; leave it out")
    said = write_page(run, path)
    return Exported(str(run.path), run.recipe.model.type_name(), {"page": _file(path, said)}, {}, said["notes"])


def _checked(out: Any) -> Path:
    path = Path(out or "model.onnx")
    if path.suffix not in KINDS or path.is_dir():
        raise UserError(f"--out {path}: expected a file ending in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    graphs.check_format(path)
    return path


def _wanted(found: tuple[Part, ...], part: str | None, model: Model) -> tuple[Part, ...]:
    names = [one.name for one in found]
    if part is not None and part not in names:
        raise UserError(f"--part {part}: {type(model).__name__} has none of this name{did_you_mean(part, names)}")
    return tuple(one for one in found if part in (None, one.name))


def _written(model: Model, part: Part, path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    return _file(path, graphs.write(model, part, path, facts))


def _file(path: Path, said: dict[str, Any]) -> dict[str, Any]:
    numbers = {"bytes": path.stat().st_size, "difference": said["checked"]["difference"]}
    return {"path": str(path), "inputs": said["inputs"], "outputs": said["outputs"], **numbers}
