#!/usr/bin/env python3
"""Images of scenes from another side and in other light, beside what the renderer makes of them: a sheet, and where
draws of the code differ.

    lowerbound train rerender-scenes
    lowerbound evaluate runs/rerender-scenes --split valid --metrics rerender,told
    python benchmarks/rerender.py runs/rerender-scenes --sheet sheet.png --spread spread.png

A row of the sheet is an image; then the same with the camera of another image of the split, and with its light: by the
model, and in truth. A row of the other picture is an image from the opposite side: by draws of q(z|x), the standard
deviation of the pixels over all of them (white: as large as the largest), and in truth. Told are the deviation inside
the object's silhouette, which the truth shows where shapes with another hue of the object differ, and outside.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import common
from lowerbound.data.attributes import encoded
from lowerbound.editing.latents import Editor
from lowerbound.metrics.base import World
from lowerbound.metrics.rerender import Change, Scenes, changes
from lowerbound.pictures import Table, save_table
from lowerbound.runs.inputs import as_batches, open_data
from lowerbound.runs.run import Run

IMAGES = 8
DRAWS = 8
SHOWN = 4  # of them


def main() -> None:
    p = common.parser(__doc__)
    p.add_argument("run", type=Path)
    p.add_argument("--split", default="test", help="of a recipe with a holdout, test is what training never saw")
    p.add_argument("--sheet", type=Path, default=Path("sheet.png"))
    p.add_argument("--spread", type=Path, default=Path("spread.png"))
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    run = Run.open(options.run)
    batches = as_batches(run, open_data(run, options.split), torch.device("cpu"))
    scenes = Scenes.of(World(run.load("cpu"), batches, run), 200)
    sheet(scenes, options.sheet)
    figures = spread(run, scenes, options.spread)
    common.show("standard deviation over draws of q(z|x), of pixels in [0, 1]", list(figures.items()))
    common.finish(options, common.machine(options.threads), figures)


def sheet(scenes: Scenes, out: Path) -> None:
    by_name = {change.name: change for change in changes(scenes.factors)}
    columns, found = ["given"], [scenes.x[:IMAGES].double() / scenes.top]
    captions = [""] * IMAGES
    for name in ("camera", "light"):
        change = by_name[name]
        target, truth = scenes.target(change)
        seen = [encoded(v, scenes.factors)[:IMAGES] for v in (scenes.own, target)]
        with torch.no_grad():
            made = scenes.model.changed(scenes.x[:IMAGES], *seen).double() / scenes.top
        found += [made.clamp(0, 1), truth[:IMAGES]]
        columns += [f"its {name} changed", "truth"]
        captions = [f"{a}{told(scenes, change, row)}  " for a, row in zip(captions, target[:IMAGES], strict=True)]
    save(found, columns, captions, out)


def told(scenes: Scenes, change: Change, row: np.ndarray) -> str:
    """A target as `camera 120, 25, 4.2`."""
    values = [scenes.factors[place].said(row[place]) for place in change.places]
    return f"{change.name} {', '.join(values)}"


def spread(run: Run, scenes: Scenes, out: Path) -> dict[str, float]:
    """Each image from the other side."""
    place = [f.name for f in scenes.factors].index("camera_azimuth")
    target, every = scenes.own[:IMAGES].copy(), scenes.all[:IMAGES].copy()
    target[:, place] = (target[:, place] + 180) % 360
    every[:, scenes.at[place]] = target[:, place]
    truth = torch.from_numpy(scenes.source.pictured(every)).double() / scenes.top
    editor, x = Editor(run), scenes.x[:IMAGES]
    own, wanted = (encoded(v, scenes.factors) for v in (scenes.own[:IMAGES], target))
    draws = torch.stack([editor.decode(editor.encode(x, own, seed), wanted) for seed in range(DRAWS)], 1)
    draws = (draws.double() / scenes.top).clamp(0, 1)
    deviation = draws.std(1).mean(1)  # [B, H, W]
    shown = (deviation / deviation.max())[:, None].expand(-1, 3, -1, -1)
    parts = [x.double() / scenes.top, *draws[:, :SHOWN].unbind(1), shown, truth]
    save(parts, ["given", *[f"draw {i + 1}" for i in range(SHOWN)], "deviation", "truth"], [], out)
    inside = silhouettes(scenes, every)
    return {"where the object is": float(deviation[inside].mean()), "elsewhere": float(deviation[~inside].mean())}


def silhouettes(scenes: Scenes, every: np.ndarray) -> torch.Tensor:
    """Where the pictures change with the object's hue and size: bool [B, H, W]."""
    images = scenes.world.images
    assert images.factor_names is not None
    other = every.copy()
    hue = images.factor_names.index("object_hue")
    other[:, hue] = (other[:, hue] + 0.5) % 1
    a, b = (np.asarray(scenes.source.pictured(v), np.int64) for v in (every, other))
    return torch.from_numpy(np.abs(a - b).max(1) > 2)


def save(parts: list[torch.Tensor], columns: list[str], rows: Sequence[str], out: Path) -> None:
    x = (torch.stack(parts, 1) * 255).round().byte().numpy()
    table = Table(x=x, levels=256, rows=tuple(rows), columns=tuple(columns))
    save_table(table, x[:, 0], out, [f"{i}.png" for i in range(len(x))])


if __name__ == "__main__":
    main()
