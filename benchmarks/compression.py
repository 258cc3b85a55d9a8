"""Likelihoods as files: their real bytes beside the bound, and beside PNG, WebP and JPEG XL of the same pixels.

    python benchmarks/compression.py RUN ... [--images 1000] [--float32] [--data DATA] [--json FILE]
    python benchmarks/compression.py --families

For every run, on the first test images: bits/dim of the file that `compress` writes, of its messages alone, and of the
bound of the same images; MB/s of pixel values in (without verification) and out, in one process, with --float32 on the
float path. Every image is decoded and compared. Then the general codecs on the same pixels in the same run, as a file
for each image with and without what a file of one pixel of the kind takes (its headers), and all tiled into one sheet.
JPEG XL where pillow-jxl-plugin is installed (pip install pillow-jxl-plugin).

The bound is a mean, and a file one draw of it. So of diffusion models `drawn` is what the model says of the latents
that were drawn, -log p(x, z) + log q(z|x): what messages should take.

--families: one model of each family that compresses, bundled or trained for seconds, by the command line alone: PNG
files into a file, listed, and out again by another process; what comes back is compared with what went in. It fails
where anything does.
"""

import argparse
import contextlib
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.distributions import Distribution

import lowerbound as lb
from common import machine
from lowerbound.codec import archive
from lowerbound.codec.archive import Archive
from lowerbound.codec.bit_swap import BitSwap
from lowerbound.codec.chain import Low
from lowerbound.codec.channel import Message
from lowerbound.codec.choice import Way, scheme_of
from lowerbound.codec.container import Container
from lowerbound.data.base import Data
from lowerbound.errors import UserError
from lowerbound.metrics.base import World
from lowerbound.metrics.file_bits import bound
from lowerbound.model import Model
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run
from lowerbound.space import Y
from lowerbound.units import to_bytes
from lowerbound.verbs.compare.anchors import sheet

CODECS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 4},
    "JXL": {"lossless": True, "effort": 7},
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", nargs="*", metavar="RUN")
    p.add_argument("--families", action="store_true", help="one model of each family, by the command line")
    p.add_argument("--images", type=int, default=1000, help="the first so many test images")
    p.add_argument("--data", help="a data set in the place of each run's own")
    p.add_argument("--steps", type=int, help="in which a diffusion model is coded")
    p.add_argument("--lossy", action="store_true", help="of a VQ-VAE, the codes alone, and the PSNR of what comes back")
    p.add_argument("--float32", action="store_true", help="the float path, not the portable one")
    p.add_argument("--no-codecs", action="store_true", help="the runs alone")
    p.add_argument("--json", type=Path, metavar="FILE")
    options = p.parse_args()
    if options.families == bool(options.runs):
        p.error("say the runs, or --families alone")
    torch.set_num_threads(1)
    if options.families:
        print(machine(1))
        return families()
    found: dict[str, Any] = {"machine": machine(1), "runs": [], "codecs": []}
    print(found["machine"])
    shown: set[bytes] = set()
    for name in options.runs:
        run = lb.Run.open(name)
        images = open_data(run, "test", options.data).head(options.images)
        batches = as_batches(run, images, torch.device("cpu"))
        x = np.concatenate([batch.x.numpy() for batch in batches.in_order(1024)])
        row = measured(name, run, batches, x, options)
        found["runs"].append(row)
        print(f"| {' | '.join(map(cell, row.values()))} |", flush=True)
        if not options.no_codecs and x.tobytes() not in shown:
            shown.add(x.tobytes())
            for anchor in codecs(x, run.facts.space.levels or 256):
                found["codecs"].append(anchor)
                print(f"| {' | '.join(map(cell, anchor.values()))} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


FEW = ["train.steps=20", "train.valid_every=20"]
# Family, the run, how it is trained where it isn't bundled, the images' data set and how many, options of `compress`
FAMILIES: list[tuple[str, str, list[str], str, int, list[str]]] = [
    ("VAE", "pretrained:vae", [], "digits", 40, []),
    ("VAE of binarized images", "pretrained:vae-mnist", [], "mnist-binarized", 40, []),
    ("autoregressive", "pretrained:pixelcnn-mnist", [], "mnist-binarized", 8, []),
    ("hierarchical VAE", "pretrained:hvae-mnist", [], "mnist-binarized", 8, []),
    ("VQ-VAE, lossless", "runs/vq", ["vqvae2-digits", *FEW, "train.stages.prior.steps=20"], "digits", 40, []),
    ("VQ-VAE, lossy", "runs/vq", [], "digits", 40, ["--lossy"]),
    ("diffusion", "runs/diffusion", ["diffusion-digits", *FEW], "digits", 16, ["--steps", "8"]),
]


def families() -> None:
    """A round trip of each, or SystemExit."""
    with tempfile.TemporaryDirectory() as folder:
        for family, run, training, data, n, how in FAMILIES:
            begun, own = time.monotonic(), Path(folder, family.replace(" ", "-"))
            pictures = pngs(own / "in", data, n)
            if training:
                lowerbound("train", *training, "--out", run, within=folder)
            label = ["--label", "3"] if run == "runs/vq" else []
            lowerbound("compress", run, own / "in", "--out", own / "a.lb", *label, *how, within=folder)
            listed = json.loads(lowerbound("decompress", own / "a.lb", "--list", "--json", within=folder))
            lowerbound("decompress", own / "a.lb", "--out", own / "back", within=folder)
            back = {path.name: np.asarray(Image.open(path)) for path in (own / "back").rglob("*.png")}
            assert {row["name"] for row in listed} == back.keys() == pictures.keys(), family
            same = all(np.array_equal(back[name], x) for name, x in pictures.items())
            if same == ("--lossy" in how):
                raise SystemExit(f"compression.py: {family}: other pixels came back than went in")
            kind = "nearly, as asked" if "--lossy" in how else "to the last bit"
            size = (own / "a.lb").stat().st_size
            took = time.monotonic() - begun
            print(f"| {family} | {run} | {n} images of {data} | {size:,} bytes | {kind} | {took:.0f} s |", flush=True)


def pngs(folder: Path, data: str, n: int) -> dict[str, np.ndarray]:
    """The first test images as files of 0 to 255, by name: uint8 [H, W]."""
    images = Data(source=data).open("test")
    folder.mkdir(parents=True)
    found = {f"{i:03d}.png": to_bytes(np.array(images.x[i][0]), images.levels) for i in range(n)}
    for name, x in found.items():
        Image.fromarray(x).save(folder / name)
    return found


def lowerbound(*words: object, within: str) -> str:
    """What a command says, in a process of its own. Raises SystemExit with what it says where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "lowerbound", *map(str, words)], cwd=within, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"compression.py: lowerbound {' '.join(map(str, words))}:\n{done.stderr}")
    return done.stdout


def cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def measured(name: str, run: Run, batches: Any, x: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    model, y = run.load("cpu"), None
    if model.given:
        y = np.concatenate([batch.y.numpy() for batch in batches.in_order(1024)])
    way, dims = Way(options.lossy, options.steps), x.size
    by = scheme_of(model, way)
    with tempfile.TemporaryDirectory() as folder:
        path, begun = Path(folder, "a.lb"), time.monotonic()
        how = {"y": y, "way": way, "float32": options.float32}
        made = archive.write(path, model, x, {}, verify=False, **how)
        encoding, begun = time.monotonic() - begun, time.monotonic()
        with Container(path) as container:
            back = Archive(container, model, y)[0 : len(x)]
        decoding = time.monotonic() - begun
    row = {"run": name, "images": len(x), "file": made.bits / dims, "messages": made.net / dims}
    if options.lossy:
        mse = np.square(back.astype(np.int64) - x).mean() / ((model.space.levels or 256) - 1) ** 2
        row["PSNR"] = float(-10 * np.log10(mse))
    else:
        assert np.array_equal(back, x), name
        said = bound(World(by.model, batches))
        row |= {"bound": said.value, "stderr": said.stderr}
        if by.kind is BitSwap:
            row["drawn"] = drawn(by.model, x, y) / math.log(2) / dims
    return row | {
        "initial bytes": made.initial // 8,
        "encode MB/s": dims / encoding / 1e6,
        "decode MB/s": dims / decoding / 1e6,
    }


class Drawn(BitSwap):
    """Keeps what the model says of what it is given and of what it draws: -log p(x, z) + log q(z|x), in nats."""

    nats = 0.0

    @torch.no_grad()
    def push(self, low: Low, x: np.ndarray, given: Y) -> None:
        self.x, self.given_y = self.events(x), given
        super().push(low, x, given)

    def _popped(self, low: Low, l: int, q: Distribution, n: int) -> tuple[np.ndarray, torch.Tensor]:
        index, z = super()._popped(low, l, q, n)
        self.nats += float(q.log_prob(z)[:n].sum())
        if l == len(self.grids) - 1:
            self.nats -= float(self.model.likelihood((z,), self.given_y).log_prob(self.x)[:n].sum())
        return index, z

    def _pushed(self, message: Message, l: int, d: Distribution, n: int, index: np.ndarray) -> None:
        super()._pushed(message, l, d, n, index)
        self.nats -= float(d.log_prob(self._value(l, index))[:n].sum())


def drawn(model: Model, x: np.ndarray, y: np.ndarray | None) -> float:
    """Nats of all images, as one chain of them takes."""
    scheme = Drawn(model, Drawn.settings_for(model, x, len(x), None, y))
    scheme.encode(x, y)
    return scheme.nats


def codecs(x: np.ndarray, levels: int) -> list[dict[str, Any]]:
    with contextlib.suppress(ImportError):
        import pillow_jxl  # noqa: F401  # pyright: ignore[reportMissingImports]  # optional
    found = []
    for codec, how in CODECS.items():
        try:
            head = len(written(x[0, :, :1, :1], codec, how, levels))
        except (KeyError, OSError, ValueError) as e:
            print(f"{codec}: not measured ({e})")
            continue
        begun = time.monotonic()
        files = [written(image, codec, how, levels) for image in x]
        encoding, begun = time.monotonic() - begun, time.monotonic()
        for file in files:
            np.asarray(Image.open(io.BytesIO(file)))
        decoding, size = time.monotonic() - begun, sum(map(len, files))
        sheets = [sheet(x[i : i + 2500]) for i in range(0, len(x), 2500)]
        together = sum(len(written(each, codec, how, levels)) for each in sheets)
        found.append(
            {
                "codec": codec,
                "images": len(x),
                "a file each": 8 * size / x.size,
                "without headers": 8 * (size - head * len(x)) / x.size,
                "sheets": 8 * together / x.size,
                "encode MB/s": x.size / encoding / 1e6,
                "decode MB/s": x.size / decoding / 1e6,
            }
        )
    return found


def written(x: np.ndarray, codec: str, how: dict[str, Any], levels: int) -> bytes:
    """An image [C, H, W] as a file; of two levels with 1 bit a pixel where the format has that."""
    picture = Image.fromarray(x[0] if len(x) == 1 else np.ascontiguousarray(x.transpose(1, 2, 0)))
    if levels == 2 and len(x) == 1:
        picture = picture.point(lambda value: 255 * value)
        picture = picture.convert("1") if codec == "PNG" else picture
    file = io.BytesIO()
    picture.save(file, format=codec, **how)
    return file.getvalue()


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        raise SystemExit(f"compression.py: {e}") from None
