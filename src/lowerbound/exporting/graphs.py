"""Parts of a model as files: ONNX, and programs of torch.export, each checked against torch as it is written."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lowerbound.errors import ConfigError, ModelError
from lowerbound.exporting.parts import Graph, Part, Port
from lowerbound.files import replacing
from lowerbound.model import Model

TOLERANCE = 1e-4  # of what the file says: of real numbers beside 1 or their own size, of pixels beside their range
BATCHES = (5, 1)  # of images that the file is checked with; it is traced with another number
TRACED = 3
HALF = 0.5 / 255  # what float16 weights may change, of pixels beside their range
MANY = 64  # inputs that they are checked with
FEW = 64  # weights that stay as they are
NEEDED = ("onnx", "onnxscript", "onnxruntime")
METADATA = "lowerbound"  # the key of ONNX's metadata_props, and the name of the file in a .pt2

Inputs = Sequence[Tensor]


class NotInFormat(ModelError):
    """A part has an operation that the format of the file lacks."""

    page = "model#not-in-format"


def check_format(path: Path) -> None:
    """Raise ConfigError where what writes and checks a file of this kind isn't installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if path.suffix != ".pt2" and missing:
        raise ConfigError(f"--out {path}: needs {' and '.join(missing)}: pip install 'lowerbound[onnx]'")


def write(model: Model, part: Part, path: Path, metadata: Mapping[str, Any], *, half: bool = False) -> dict[str, Any]:
    """Write a part, an .onnx or a .pt2; check it on other inputs, in batches of other sizes; the metadata it has.

    half: its weights are kept in float16 where pictures stay what they are, to half of one of their 255 values.

    Raises NotInFormat where the format has no such operation, ModelError where the file says something else.
    """
    program = traced(model, part, example(part, TRACED, 0))
    made = (_Onnx if path.suffix == ".onnx" else _Program)(program, part)
    whole = {**metadata, **described(model, part)}
    with replacing(path) as temporary:
        made.save(temporary, whole)
        whole["checked"] = {"difference": checked(model, part, made.opened(temporary), path), "batches": [*BATCHES]}
        if half and isinstance(made, _Onnx):
            whole["checked"] |= _halved(made, temporary, model, part)
        made.save(temporary, whole)
    return whole


def traced(model: Model, part: Part, inputs: Inputs) -> ExportedProgram:
    """The part as a graph of torch's operations, for batches of any size."""
    batch = Dim("batch", min=1)
    sizes = tuple({0: batch} if port.batched else {} for port in part.inputs)
    with torch.no_grad(), _flags_decided(model):
        return torch.export.export(Graph(model, part), tuple(inputs), dynamic_shapes={"inputs": sizes}, strict=False)


@contextmanager
def _flags_decided(model: nn.Module) -> Iterator[None]:
    """Inside, buffers that say yes or no are constants: a graph has no branches, and takes one way."""
    buffers = ((module, name, b) for module in model.modules() for name, b in module.named_buffers(recurse=False))
    flags = [found for found in buffers if found[2].dtype is torch.bool]
    kept = [name not in module._non_persistent_buffers_set for module, name, _ in flags]
    for module, name, flag in flags:
        delattr(module, name)
        module.__dict__[name] = flag
    try:
        yield
    finally:
        for (module, name, flag), persistent in zip(flags, kept, strict=True):
            del module.__dict__[name]
            module.register_buffer(name, flag, persistent=persistent)


def example(part: Part, n: int, seed: int) -> tuple[Tensor, ...]:
    """Inputs of a batch of n, drawn by a seed."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_example(port, n, seed, generator) for port in part.inputs)


def _example(port: Port, n: int, seed: int, generator: torch.Generator) -> Tensor:
    if port.values:
        return torch.tensor(port.values[seed * 7 % len(port.values)])
    shape = (n, *port.space.shape) if port.batched else port.space.shape
    if port.space.levels is not None:
        return torch.randint(0, port.space.levels, shape, generator=generator).to(port.space.dtype)
    return (torch.rand if port.uniform else torch.randn)(shape, generator=generator)


# ---- the files

Ask = Callable[[Inputs], Sequence[np.ndarray]]


class _Program:
    """A .pt2."""

    def __init__(self, program: ExportedProgram, part: Part):
        self.program = program

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        extra = {f"{METADATA}.json": json.dumps(metadata, allow_nan=False)}
        torch.export.save(self.program, path, extra_files=extra)

    def opened(self, path: Path) -> Ask:
        loaded = torch.export.load(path).module()
        return lambda inputs: [out.detach().numpy() for out in loaded(*inputs)]


class _Onnx:
    """An .onnx."""

    def __init__(self, program: ExportedProgram, part: Part):
        self.inputs = [port.name for port in part.inputs]
        outputs = [port.name for port in part.outputs]
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")  # of what torch deprecates in itself
            try:
                made = torch.onnx.export(
                    program,
                    (),
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                    input_names=self.inputs,
                    output_names=outputs,
                )
            except torch.onnx.errors.OnnxExporterError as e:
                raise NotInFormat(f"ONNX has no {_missing(e)}, which this part takes; a .pt2 holds it") from None
        assert made is not None
        self.proto: Any = made.model_proto
        self.proto.producer_name = METADATA
        _name_batch(self.proto, part)
        _forget_source(self.proto)

    def save(self, path: Path, metadata: Mapping[str, Any]) -> None:
        del self.proto.metadata_props[:]
        self.proto.metadata_props.add(key=METADATA, value=json.dumps(metadata, allow_nan=False))
        path.write_bytes(self.proto.SerializeToString())

    def opened(self, path: Path) -> Ask:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = self.inputs
        return lambda inputs: session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})


def _halved(made: _Onnx, path: Path, model: Model, part: Part) -> dict[str, Any]:
    """The weights in float16, where the pictures of many inputs hardly change by it; what is said of it."""
    whole = made.proto
    made.proto = type(whole)()
    made.proto.CopyFrom(whole)
    _halve(made.proto)
    made.save(path, {})
    off = max(off for _, off in differing(model, part, made.opened(path), (MANY,)))
    if not off <= HALF:
        made.proto = whole
        return {}
    return {"float16": off}


def _halve(proto: Any) -> None:
    """Weights that are larger than a few as float16, and made float32 as the graph is opened."""
    import onnx  # pyright: ignore[reportMissingImports]

    casts = []
    for tensor in proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < FEW:
            continue
        with np.errstate(over="ignore"):
            small = values.astype(np.float16)
        if not np.isfinite(small).all():
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(small, f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _forget_source(proto: Any) -> None:
    """Remove what the exporter says of the lines of code that each node comes of."""
    graph = proto.graph
    for thing in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del thing.metadata_props[:]
        thing.doc_string = ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, torch's exporter and the optimizer of graphs log nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _missing(error: BaseException) -> str:
    """The name of torch's operation that can't be written."""
    words = str(error).replace("'", " ").replace(":", " ").split()
    return next((w.removeprefix("aten.") for w in words if w.startswith("aten.")), "operation")


def _name_batch(proto: Any, part: Part) -> None:
    """Call the size of a batch so, which the exporter numbers."""
    first = next(v for v, port in zip(proto.graph.input, part.inputs, strict=True) if port.batched)
    numbered = first.type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == numbered:
                dim.dim_param = "batch"


# ---- what it says


def checked(model: Model, part: Part, ask: Ask, path: Path) -> float:
    """The largest difference of what the file says to what torch does. Raises ModelError where it is too large."""
    worst = 0.0
    for name, off in differing(model, part, ask, BATCHES):
        if not off <= TOLERANCE:
            raise ModelError(
                f"{path}: {name} of {part.name} is off by {off:.2g} from what torch computes, more than "
                f"{TOLERANCE:g}, so that it was not written"
            )
        worst = max(worst, off)
    return worst


def differing(model: Model, part: Part, ask: Ask, batches: Sequence[int]) -> Iterator[tuple[str, float]]:
    """How far each output is off from what torch computes, in batches of some sizes."""
    graph = Graph(model, part)
    for n in batches:
        inputs = example(part, n, seed=n)
        with torch.no_grad():
            expected = graph(*inputs)
        for port, right, found in zip(part.outputs, expected, ask(inputs), strict=True):
            yield port.name, difference(port, right, found)


def difference(port: Port, right: Tensor, found: np.ndarray) -> float:
    """Beside 1 or its own size; of pixels beside their range; of whole numbers the share that are others."""
    if tuple(right.shape) != found.shape:
        return float("inf")
    if not right.is_floating_point():
        return float((right.numpy() != found).mean())
    off = np.abs(right.double().numpy() - found)
    range_of_pixels = (port.space.levels or 2) - 1
    return float((off / np.maximum(range_of_pixels, np.abs(right.double().numpy()))).max(initial=0.0))


def described(model: Model, part: Part) -> dict[str, Any]:
    """What goes in and comes out, for whoever runs the file."""
    with torch.no_grad():
        inputs = example(part, 1, 0)
        outputs = Graph(model, part)(*inputs)
    return {
        "part": part.name,
        "does": part.what,
        "inputs": [_port(port, t) for port, t in zip(part.inputs, inputs, strict=True)],
        "outputs": [_port(port, t) for port, t in zip(part.outputs, outputs, strict=True)],
    }


def _port(port: Port, t: Tensor) -> dict[str, Any]:
    shape = ["batch", *port.space.shape] if port.batched else []
    said: dict[str, Any] = {"name": port.name, "dtype": str(t.dtype).removeprefix("torch."), "shape": shape}
    said["what"] = port.what
    if port.space.levels is not None:
        said["range"] = [0, port.space.levels - 1]
    if port.uniform:
        said["range"] = [0, 1]
    if port.values:
        said["values"] = [*port.values]
    return said
