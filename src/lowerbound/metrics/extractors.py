"""Images as vectors in which sets of them are compared: by pixels, a classifier or a network's file."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.errors import ConfigError
from lowerbound.likeness import PixelFeatures, enough
from lowerbound.model import Classifying
from lowerbound.parallel import each_once
from lowerbound.runs.run import Run

AT_ONCE = 64  # images
FILES = (".pt", ".ts", ".onnx")


@dataclass(frozen=True)
class Extractor:
    """Images uint8 [N, C, H, W] -> vectors float64 [N, F], and all that these depend on."""

    recipe: dict[str, Any]  # name, kind, sha256, and how images are made to fit
    vectors: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Input:
    """What a file's network takes: [N, 3, size, size] with pixels from `low` to `high`. None: the images' own size."""

    size: int | None = None
    low: float = 0.0
    high: float = 1.0


def pixels(train: np.ndarray, levels: int) -> Extractor:
    """The first 64 principal components of the pixels of training images: needs no trained network."""
    features = PixelFeatures(train, levels)
    recipe = {"name": "pixels", "kind": f"{features.pca.n_components_} principal components of pixels from 0 to 1"}
    recipe |= {"sha256": _sha256(train.tobytes()), "resize": None, "fitted": len(train)}
    return Extractor(recipe, features)


def parted(order: np.ndarray, n: int, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Of training images in random order [N]: n to be scored, and others that principal components are fitted to.

    The components of the very images that are scored would lie closer to them than to any others. The fewer there are
    of the others, the more the scored ones stand out as well, so they are many, whatever n; where there are too few for
    both, half of all are scored. dims: the pixels of an image, which take memory.
    """
    n = min(n, len(order) // 2)
    return order[:n], order[n : n + enough(dims)]


def opened(where: str | Path, given: Input, levels: int, device: torch.device) -> Extractor:
    """The run of a classifier, or a TorchScript or ONNX file, for images of so many levels.

    A TorchScript file is a program, which this runs: it must be the user's own choice. Raises ConfigError, RunError.
    """
    path = Path(where)
    if path.suffix.lower() in FILES:
        if not path.is_file():
            raise ConfigError(f"--extractor {path}: no such file")
        return _file(path, given, levels, device)
    if given != Input():
        raise ConfigError(f"--extractor {path}: a run knows its input; --extractor-size and -range are for files")
    return _classifier(Run.open(path), levels, device)


def _classifier(run: Run, levels: int, device: torch.device) -> Extractor:
    model = run.load(device)
    if not isinstance(model, Classifying):
        raise ConfigError(
            f"--extractor {run.path}: expected the run of a Classifier (such as recipe classifier), or a file ending "
            f"in {', '.join(FILES)}; got a {type(model).__name__}"
        )
    shape, top = model.space.shape, (model.space.levels or 2) - 1

    def vectors(x: Tensor) -> Tensor:
        return model.code(fitted(x, shape) * top)

    recipe = {"name": run.path.resolve().name, "kind": "a classifier's features before its last layer"}
    recipe |= {"sha256": _weights(model), "resize": _resize(shape[-2:])}
    return Extractor(recipe, lambda x: _batched(vectors, x, levels, device))


def _file(path: Path, given: Input, levels: int, device: torch.device) -> Extractor:
    network = _onnx(path) if path.suffix.lower() == ".onnx" else _torchscript(path, device)

    def vectors(x: Tensor) -> Tensor:
        x = fitted(x, (3, *((given.size,) * 2 if given.size else x.shape[-2:])))
        try:
            out = network(given.low + x * (given.high - given.low))
        except Exception as e:  # whatever a network of the user's raises
            raise ConfigError(f"--extractor {path}: does not take {list(x.shape)}: {str(e).splitlines()[-1]}") from None
        if not isinstance(out, Tensor) or len(out) != len(x):
            raise ConfigError(f"--extractor {path}: expected one tensor [N, F], got {getattr(out, 'shape', type(out))}")
        return out.flatten(1)

    recipe = {"name": path.name, "kind": "ONNX" if path.suffix.lower() == ".onnx" else "TorchScript"}
    recipe |= {"sha256": _sha256(path.read_bytes()), "resize": _resize((given.size,) * 2 if given.size else None)}
    recipe |= {"range": [given.low, given.high]}
    return Extractor(recipe, lambda x: _batched(vectors, x, levels, device))


def _torchscript(path: Path, device: torch.device) -> Callable[[Tensor], Any]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
        try:
            return torch.jit.load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as e:
            reason = " ".join(str(e).split()[:20])
            raise ConfigError(f"--extractor {path}: not a TorchScript file: {reason}") from None


def _onnx(path: Path) -> Callable[[Tensor], Any]:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(f"--extractor {path}: ONNX files need onnxruntime: pip install 'lowerbound[onnx]'") from None
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as e:  # its exceptions have no common base
        raise ConfigError(f"--extractor {path}: not an ONNX file: {str(e).splitlines()[-1]}") from None
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])


@torch.no_grad()
def _batched(vectors: Callable[[Tensor], Tensor], x: np.ndarray, levels: int, device: torch.device) -> np.ndarray:
    def some(i: int) -> np.ndarray:
        part = torch.from_numpy(x[i * AT_ONCE : (i + 1) * AT_ONCE]).to(device)
        return vectors(part.float() / (levels - 1)).double().cpu().numpy()

    return np.concatenate(each_once(some, -(-len(x) // AT_ONCE)))


def fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images from 0 to 1 made [N, *shape]: grey ones repeated for colours, resized. Raises ConfigError for others."""
    if x.shape[1] != shape[0]:
        if x.shape[1] != 1:
            raise ConfigError(f"--extractor: it takes images of {shape[0]} channel(s), and these have {x.shape[1]}")
        x = x.expand(-1, shape[0], -1, -1)
    if x.shape[-2:] == tuple(shape[-2:]):
        return x
    return F.interpolate(x, size=shape[-2:], mode="bilinear", antialias=True)


def _resize(size: tuple[int, ...] | None) -> str | None:
    return None if size is None else f"bilinear, antialiased, to {size[0]}x{size[1]}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _weights(model: nn.Module) -> str:
    """Of the tensors, whose order in a file is random."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(value.shape)} ".encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
