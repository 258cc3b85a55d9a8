"""The comparison in words, and as Markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowerbound.errors import ConfigError

BEGIN, END = "<!-- compare -->", "<!-- /compare -->"  # what lies between them in a Markdown file is written anew
GIVEN = "†"
LEGEND = (
    ("=", "the true NLL (or difference) is the value"),
    ("<=", "the true NLL is at most the value, which is an upper bound of it; so is the difference"),
    (">=", "the true difference is at least the value"),
    (
        "~",
        "an estimate: of a normalizing constant, whose error is in the standard error, and which is rather too low, as "
        "is then the NLL; or a difference to such a number",
    ),
    ("?", "nothing is known: no likelihood, or a difference of two bounds, or of a bound and an estimate"),
    (GIVEN, "of log p(x | label or attributes), another quantity than log p(x)"),
    ("≈", "extrapolated from a few passes"),
)
COLUMNS = {  # of a row's cells
    "run": "run",
    "model": "model",
    "nll": "NLL, nats/image",
    "bits": "bits/dim",
    "difference": "minus {reference}, nats",
    "file": "file, bits/dim",
    "net": "its messages",
    "promised": "their bound",
    "parameters": "parameters",
    "training": "training",
    "rate": "images/s",
    "sample": "one sample",
    "naive": "without cache",
    "reconstruction": "squared error",
    "code": "code",
    "frechet": "Fréchet distance",
    "precision": "precision",
    "recall": "recall",
    "answers": "can be asked for",
}
TEXT = ("run", "model", "answers")  # the others are numbers
LIKELIHOOD = ("run", "model", "nll", "bits", "difference")
FILES = ("run", "file", "net", "promised")
COST = ("run", "parameters", "training", "rate", "sample", "naive", "reconstruction", "code")
USE = ("run", "frechet", "precision", "recall", "answers")


# ---- cells


def cells(row: dict[str, Any], report: Mapping[str, Any]) -> dict[str, str]:
    """What each column of COLUMNS shows of a row of the report."""
    train, sampling = row["training"], row["sampling"]
    return {
        "run": row["name"],
        "model": model_name(row),
        "nll": _related(row["nll"]),
        "bits": _related(row["bits_per_dim"]).partition(" ±")[0],
        "difference": _difference(row, report),
        **_file(row["file_bits"]),
        "parameters": f"{row['parameters']:,}",
        "training": "" if train is None else duration(train["seconds"]),
        "rate": "" if train is None or train["images_per_second"] is None else f"{train['images_per_second']:,.0f}",
        "sample": "no" if sampling is None else duration(sampling["seconds"]),
        "naive": _naive(sampling),
        "reconstruction": "no" if row["squared_error"] is None else measured(row["squared_error"]),
        "code": _code(row["code"]),
        **{name: _quality(row["quality"], name) for name in ("frechet", "precision", "recall")},
        "answers": ", ".join(row["answers"]),
    }


def model_name(row: dict[str, Any]) -> str:
    """VAE, IWAE; Autoregressive, PixelCNN."""
    names = [row["model"], row["network"], row["objective"]]
    return ", ".join(name.rpartition(".")[2] for name in names if name is not None)


def measured(value: dict[str, Any], sign: bool = False) -> str:
    """Value ± standard error, to two digits of that.

    Example:
        >>> measured({"value": 90.4147, "stderr": 0.2304}), measured({"value": -0.9167, "stderr": 0.0309}, sign=True)
        ('90.41 ± 0.23', '-0.917 ± 0.031')
        >>> measured({"value": 151.26, "stderr": None})
        '151.26'
    """
    number, error = value["value"], value["stderr"]
    if not error:
        return f"{number:{'+' if sign else ''}.5g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{number:{'+' if sign else ''},.{digits}f} ± {error:.{digits}f}"


def duration(seconds: float, exact: float = 9.95) -> str:
    """Seconds for a person; with one decimal below `exact` units.

    Example:
        >>> [duration(s) for s in (3.21e-6, 0.00456, 1.234, 75, 975, 9000)]
        ['3.2 µs', '4.6 ms', '1.2 s', '75 s', '16 min', '2.5 h']
    """
    for limit, unit, name in ((1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            n = seconds / unit
            return f"{n:.0f} {name}" if n >= exact else f"{n:.1f} {name}"
    return f"{seconds / 3600:.1f} h"


def _related(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return value["relation"]
    return f"{value['relation']} {measured(value)}" + (f" {GIVEN}" if "given" in value else "")


def _difference(row: dict[str, Any], report: Mapping[str, Any]) -> str:
    difference = row["difference"]
    if row["name"] == report["reference"]:
        return "0"
    return "" if difference is None else f"{difference['relation']} {measured(difference, sign=True)}"


def _naive(sampling: dict[str, Any] | None) -> str:
    naive = None if sampling is None else sampling["naive"]
    if naive is None:
        return ""
    return ("≈ " if naive["measured_passes"] < naive["passes"] else "") + duration(naive["seconds"])


def _code(code: dict[str, Any] | None) -> str:
    if code is None:
        return "no"
    shapes = " + ".join("x".join(map(str, shape)) for shape in code["shapes"])
    return f"{code['dims']:,}" if shapes == str(code["dims"]) else f"{code['dims']:,} ({shapes})"


def _quality(quality: dict[str, Any] | None, name: str) -> str:
    return "" if quality is None else measured(quality[name])


def _file(file_bits: dict[str, Any] | None) -> dict[str, str]:
    if file_bits is None or file_bits["value"] is None:
        return dict.fromkeys(FILES[1:], "" if file_bits is None else "no")
    return {"file": _related(file_bits), "net": _related(file_bits["net"]), "promised": _related(file_bits["bound"])}


def legend(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The signs in the table of a report, and what they mean."""
    shown = " ".join(cell for row in report["runs"] for cell in cells(row, report).values() if cell != row["name"])
    return [(sign, meaning) for sign, meaning in LEGEND if sign in shown.split()]


def tables(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The columns of each table that is shown."""
    return [names for names in (LIKELIHOOD, FILES, COST, USE) if len(shown_columns(report, names)) > 1]


def shown_columns(report: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Of these columns those that have anything in them."""
    rows = [cells(row, report) for row in report["runs"]]
    return [name for name in names if any(row[name] for row in rows)]


def heading(name: str, report: Mapping[str, Any]) -> str:
    """The title of a column."""
    return COLUMNS[name].replace("{reference}", str(report["reference"]))


def pixels(report: Mapping[str, Any]) -> str:
    """The data, in words: mnist-binarized, test, 10,000 images of 1x28x28, 2 levels, fixed binarization."""
    data = report["data"]
    size = "x".join(map(str, data["shape"]))
    how = f", {data['binarization']} binarization" if data["binarization"] else ""
    return f"{data['name']}, {data['split']}, {data['n']:,} images of {size}, {data['levels']} levels{how}"


def conditions(report: Mapping[str, Any]) -> str:
    """What the numbers of the table depend on besides the data."""
    draws = sorted({row["nll"]["draws"] for row in report["runs"] if row["nll"]["relation"] == "<="})
    batch = next((row["sampling"]["batch"] for row in report["runs"] if row["sampling"]), None)
    said = [f"bounds with {' or '.join(map(str, draws))} draw{'s' if draws != [1] else ''}"] if draws else []
    said += [f"seed {report['seed']}"]
    if batch is not None:
        threads = f", {report['threads']} thread{'s'[: report['threads'] > 1]}" if report["device"] == "cpu" else ""
        said += [f"one sample: the time of {batch} drawn together, divided by {batch}, on {report['device']}{threads}"]
    real = next((row["quality"] for row in report["runs"] if row["quality"]), None)
    if real is not None:
        names = {"frechet": "Fréchet distance", "precision": "precision", "recall": "recall"}
        each = [f"{name} {measured(real[f'{key}.real'])}" for key, name in names.items()]
        said += [f"training images in the place of samples: {', '.join(each)}"]
    files = [row["file_bits"] for row in report["runs"] if row["file_bits"] and row["file_bits"]["value"] is not None]
    if files:
        n = files[0]["n"]
        said += [f"files of the first {n:,} images, read back and compared, their bound of draws that are not weighted"]
    return "; ".join([*said, "training: the time of its steps, without validation"])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def anchor_rows(report: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Codec, how the images are kept, bits/dim, nats per image."""
    kinds = {"files": "a file for each image", "sheet": "all on one sheet"}
    return [
        (
            a["codec"],
            f"{kinds[a['kind']]} ({a['n']:,})",
            measured({"value": a["bits_per_dim"], "stderr": a["stderr"]}),
            f"{a['nats']:,.1f}",
        )
        for a in report["anchors"]
    ]


ANCHORS = (
    "The same pixels as lossless image files, every byte counted, headers too. A file for each small image is mostly "
    "header; on one sheet, all images tiled, the header is nothing. Binary pixels are 1-bit in PNG."
)


# ---- Markdown


def markdown(report: Mapping[str, Any]) -> str:
    """The table, what the numbers depend on, the anchors and the notes."""
    names = shown_columns(report, tuple(COLUMNS))
    lines = [_line([heading(n, report) for n in names]), _line(["---" if n in TEXT else "---:" for n in names])]
    for row in report["runs"]:
        shown = cells(row, report)
        lines.append(_line([shown[n] for n in names]))
    signs = "; ".join(f"`{sign}` {meaning}" for sign, meaning in legend(report))
    facts = f"{_plain(pixels(report))}. {_sentence(conditions(report))} {signs}."
    anchored = [_line(["the same pixels", "as", "bits/dim", "nats/image"]), _line(["---", "---", "---:", "---:"])]
    anchored += [_line(a) for a in anchor_rows(report)]
    parts = ["\n".join(lines), facts, "\n".join(anchored), ANCHORS]
    if report["notes"]:
        parts.append("\n".join(f"- {_plain(note)}" for note in report["notes"]))
    return "\n\n".join(parts) + "\n"


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, texts)) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"[\\|*_`\[\]]|<(?=[A-Za-z/!?])", r"\\\g<0>", text)


def check_markers(path: Path) -> None:
    """Raise ConfigError for a Markdown file without the markers between which the table goes."""
    if path.exists():
        _around(path)


def in_place(path: Path, table: str) -> str:
    """The text of a Markdown file with the table between its markers; of a new one, the markers and the table."""
    before, after = _around(path) if path.exists() else ("", "\n")
    return f"{before}{BEGIN}\n{table}{END}{after}"


def _around(path: Path) -> tuple[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"--markdown {path}: can't be read: {e}") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(
            f"--markdown {path}: is there already, without the lines {BEGIN} and {END} between which the table goes"
        )
    return before, after
