#!/usr/bin/env python3
"""Reading images: decoding for the first time, batches from the cache, and memory that does not grow with the data.

    python benchmarks/data.py --source imagenet-sample-256.zip      # a .zip of JPEGs, copied to 10,000 files
    python benchmarks/data.py                                       # generated JPEGs of 256x256

decoding: a folder of JPEGs opened for the first time: names, stamps, headers, pixels, the cache's files flushed to
disk. Against one thread of Pillow that opens, converts (and resizes) each file and keeps nothing. The files are in
memory for both; rounds are interleaved.
batches: `Batches.training` at 128 images from the cache's memory-mapped file, in random order, its pages in memory.
memory: the peak of a process of its own that builds the cache, and of one that reads an epoch of batches from it.
`anonymous` is what only that process can free; the rest of the resident set are pages of the cache's file, which the
system takes back when it needs them.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import common
from common import Spread

SEED = 0


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("--source", type=Path, help="a .zip of JPEGs; by default they are generated")
    p.add_argument("--images", type=int, default=10_000, help="decoded in a round; of the source, copied")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--batches", type=int, default=1000, help="in a round")
    p.add_argument("--memory-images", type=int, nargs="*", default=[10_000, 100_000])
    p.add_argument("--folder", type=Path, help="for the generated files; by default a temporary one")
    p.add_argument("--memory-of", type=json.loads, help="(of the processes whose memory is measured)")
    options = p.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(*options.memory_of)))
        return
    common.set_threads(options.threads)
    about = common.machine(options.threads)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        for title, measure in (("decoding", decoding), ("batches", batches), ("memory", memory)):
            rows = list(measure(options, folder))
            common.show(title, rows)
            figures[title] = dict(rows)
    common.finish(options, about, figures)


# ---- decoding


def decoding(options: Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    from lowerbound.data.base import Data

    jpegs = folder / "jpegs"
    files = copies(jpegs, options.images, options.source)
    time.sleep(2)  # stamps of files that were written just now are looked at twice
    yield "files", f"{len(files):,}, {sum(f.stat().st_size for f in files) / len(files) / 1024:.1f} KiB each"

    def whole(size: int | None) -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        Data(source=str(jpegs), size=size).open("all")

    def pillow(size: int | None) -> None:
        for file in files:
            with Image.open(file) as image:
                x = image.convert("RGB")
                np.asarray(x if size is None else x.resize((size, size), Image.Resampling.BILINEAR))

    for size in (None, 64):
        named = {"lowerbound": whole, "Pillow, one thread": pillow}
        taken: dict[str, list[float]] = {n: [] for n in named}
        for _ in range(options.rounds):
            for n, work in named.items():
                taken[n].append(len(files) / seconds(lambda work=work, size=size: work(size)))
        what = "256x256" if size is None else f"size={size}"
        for n, rates in taken.items():
            yield f"{what}, {n}, images/s", Spread.of(rates)
        yield f"{what}, ratio in the same round", common.ratios(*taken.values())
    shutil.rmtree(jpegs)


def copies(folder: Path, n: int, source: Path | None) -> list[Path]:
    """n JPEGs of 256x256 in a new folder: the source's over and over, or generated ones."""
    folder.mkdir()
    originals = list(jpegs_of(source)) if source else list(generated(min(n, 500)))
    files = [folder / f"{i:06d}.jpg" for i in range(n)]
    for i, file in enumerate(files):
        file.write_bytes(originals[i % len(originals)])
    return files


def jpegs_of(source: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(source) as archive:
        for name in archive.namelist():
            if name.lower().endswith((".jpg", ".jpeg")):
                yield archive.read(name)


def generated(n: int) -> Iterator[bytes]:
    """Smooth noise with some grain: about as many bytes as a photograph."""
    import io

    rng = np.random.default_rng(SEED)
    for _ in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).resize((256, 256))
        grain = rng.normal(0, 6, (256, 256, 3))
        pixels = np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75)
        yield file.getvalue()


def seconds(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


# ---- batches


def batches(options: Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    import torch

    from lowerbound.data.base import Data
    from lowerbound.data.batches import Batches

    torch.set_num_threads(options.threads)
    size = 128
    kinds = (
        ("28x28x1", 60_000, (28, 28), False, False),
        ("28x28x1, binarized anew", 60_000, (28, 28), True, False),
        ("64x64x3", 10_000, (64, 64, 3), False, False),
        ("64x64x3, mirrored", 10_000, (64, 64, 3), False, True),
    )
    sources = {}
    for name, n, shape, binarize, flip in kinds:
        images = Data(source=str(npz(folder, n, shape))).open("all")
        sources[name] = Batches(images, torch.device("cpu"), binarize=binarize, flip=flip)
    taken: dict[str, list[float]] = {name: [] for name in sources}
    step = 0
    for _ in range(options.rounds + 1):  # the first brings the pages into memory
        for name, source in sources.items():
            begun = time.perf_counter()
            for i in range(step, step + options.batches):
                source.training(i, size, SEED)
            taken[name].append(options.batches / (time.perf_counter() - begun))
        step += options.batches
    for name, rates in taken.items():
        yield f"{name}, batches/s of {size}", Spread.of(rates[1:])


def npz(folder: Path, n: int, shape: tuple[int, ...]) -> Path:
    """n images of noise in an .npz, made once."""
    path = folder / f"{n}-{'x'.join(map(str, shape))}.npz"
    if not path.exists():
        np.savez(path, x=np.random.default_rng(SEED).integers(0, 256, (n, *shape), np.uint8))
    return path


# ---- memory


def memory(options: Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    for n in options.memory_images:
        sources = {"npz 32x32x3": npz(folder, n, (32, 32, 3)), "folder of PNGs 16x16x3": pngs(folder, n)}
        for kind, source in sources.items():
            for what in ("building", "reading"):
                got = memory_in_a_process(what, source)
                shown = f"{got['resident']:.0f} MiB resident at most, {got['anonymous']:.0f} MiB of it anonymous"
                yield f"{kind}, {n:,} images, {what}", shown
    got = memory_in_a_process("nothing", folder)
    yield "with the libraries imported alone", f"{got['resident']:.0f} MiB, {got['anonymous']:.0f} MiB anonymous"


def pngs(folder: Path, n: int) -> Path:
    """A folder of n small images, no two alike."""
    path = folder / f"{n}-pngs"
    if not path.exists():
        rng = np.random.default_rng(SEED)
        for i in range(n):
            inner = path / f"{i // 1000:04d}"
            inner.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(inner / f"{i:06d}.png", compress_level=1)
    return path


def memory_in_a_process(what: str, source: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--memory-of", json.dumps([what, str(source)])]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory_of(what: str, source: str) -> dict[str, float]:
    """MiB of this process after its work. Anonymous memory is looked at as the work goes on."""
    import torch

    from lowerbound.data.base import Data
    from lowerbound.data.batches import Batches

    torch.set_num_threads(1)
    most = anonymous()
    if what != "nothing":

        def told(done: int, total: int) -> None:
            nonlocal most
            if done % 500 == 0 or done == total:
                most = max(most, anonymous())

        images = Data(source=source).open("all", progress=told)
        most = max(most, anonymous())
        if what == "reading":
            batches = Batches(images, torch.device("cpu"))
            for i in range(len(batches) // 128):
                batches.training(i, 128, SEED)
                if i % 50 == 0:
                    most = max(most, anonymous())
    return {"resident": status("VmHWM"), "anonymous": most}


def anonymous() -> float:
    return status("RssAnon")


def status(name: str) -> float:
    """MiB of what the system counts of this process. Its getrusage begins at the peak of whoever started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
