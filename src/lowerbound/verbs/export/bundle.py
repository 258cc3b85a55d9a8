"""A page in one file: the scripts of several as one, styles and data inside, and nothing let in or out."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OWN = Path(__file__).parent / "static"
RUNTIME = OWN / "onnxruntime-web"
STATIC = Path(__file__).parents[2] / "explorer" / "static"  # what pages share

IMPORT = re.compile(r'^import \{ ([^}]*) \} from "([^"]+)";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async function|function|const|class) (\w+))", re.MULTILINE)
EXPORTS = re.compile(r"export\{([^}]*)\};?\s*(?://# sourceMappingURL=.*\s*)?$")  # how a minified one ends


def page(about: Mapping[str, Any], graph: bytes, facts: str, version: str) -> str:
    """The document. about: what the scripts are told; graph: ONNX; facts: a line on the model."""
    script, style = "\n" + scripts("/page/main.js"), (STATIC / "style.css").read_text(encoding="utf-8")
    icon = "data:image/svg+xml;base64," + base64.b64encode((STATIC / "icon.svg").read_bytes()).decode()
    parts = {
        "policy": policy(script, style),
        "version": version,
        "title": html.escape(about["name"]),
        "icon": icon,
        "style": style,
        "facts": html.escape(facts),
        "about": json.dumps(about, allow_nan=False).replace("<", "\\u003c"),  # no end of the block within it
        "graph": packed(gzip.compress(graph, 9, mtime=0)),
        "runtime": packed((RUNTIME / "ort-wasm-simd-threaded.wasm.gz").read_bytes()),
        "licence": "onnxruntime-web, by which the model is run:\n\n"
        + (RUNTIME / "LICENSE").read_text(encoding="utf-8"),
        "script": script,
    }
    document = (OWN / "index.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], document)


def policy(script: str, style: str) -> str:
    """The content security policy: this script and this style by their hashes, and no address at all."""
    own = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{own[0]}' 'wasm-unsafe-eval'",
            f"style-src 'sha256-{own[1]}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---- scripts


def scripts(entry: str) -> str:
    """A module and all that it imports, as one: each becomes a function that gives what it exports, before those that
    take it."""
    found: dict[str, str] = {}
    _visit(entry, found)
    return "".join(f"// {name}\nconst {_name(name)} = (() => {{\n{text}}})();\n" for name, text in found.items())


def _visit(name: str, found: dict[str, str]) -> None:
    text = _source(name)
    for _, other in IMPORT.findall(text):
        if other not in found:
            _visit(other, found)
    names = EXPORT.findall(text)
    body = IMPORT.sub(lambda m: f"const {{ {m[1]} }} = {_name(m[2])};", EXPORT.sub("", text))
    if last := EXPORTS.search(body):
        pairs = (pair.split(" as ") for pair in last[1].split(","))
        body = body[: last.start()] + f"return {{ {', '.join(f'{after}: {before}' for before, after in pairs)} }};\n"
    else:
        body += f"return {{ {', '.join(names)} }};\n"
    found[name] = body


def _source(name: str) -> str:
    if name == "/page/onnxruntime-web.js":
        return gzip.decompress((RUNTIME / "ort.wasm.bundle.min.mjs.gz").read_bytes()).decode()
    _, home, file = name.split("/")
    return ((STATIC if home == "static" else OWN) / file).read_text(encoding="utf-8")


def _name(name: str) -> str:
    return "$" + re.sub(r"\W", "_", name.removesuffix(".js"))
