"""The site is true: it builds strictly, its commands exist, its pictures are what its commands make."""

import ast
import base64
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lowerbound as lb
from lowerbound.verbs import explain

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

from documentation import checking, hooks, making, marks, notebooks, pages, printed, signatures  # noqa: E402


def test_the_site():
    """All pages, links, anchors, commands and pictures: 16 s of a core, since every page is drawn."""
    done = subprocess.run([sys.executable, ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pages, with nothing in it."""
    for module in (pages, checking):
        monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
    for module in (pages, making, checking):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for module in (pages, making):
        monkeypatch.setattr(module, "EXAMPLES", tmp_path / "examples")
    monkeypatch.setattr(pages, "PICTURES", tmp_path / "docs" / "pictures")
    monkeypatch.setattr(making, "WORK", tmp_path / "work")
    monkeypatch.setattr(pages, "version", lambda: "1.2.3")
    (tmp_path / "docs").mkdir()
    return tmp_path / "docs"


PAGE = """# Page

<!-- run: makes runs/a/dot.png -->
```python
from pathlib import Path
from PIL import Image
Path("runs/a").mkdir(parents=True)
Image.new("L", (2, 2), 7).save("runs/a/dot.png")
```

![A dot](pictures/page-dot.png)

<!-- run -->
```bash
ls runs/a  # what there is
```

<!-- output -->
```text
old
```
"""


def test_pictures_and_outputs_are_made(docs: Path):
    (docs / "page.md").write_text(PAGE)
    assert len([*checking.made(docs / "page.md")]) == 2
    making.make(docs / "page.md")
    assert [*checking.made(docs / "page.md")] == []
    assert "```text\ndot.png\n```" in (docs / "page.md").read_text()
    with Image.open(docs / "pictures" / "page-dot.png") as picture:
        picture.load()
        assert picture.getpixel((0, 0)) == 7
        assert pages.recipe(docs / "page.md")[0].fingerprint in getattr(picture, "text")["lowerbound"]  # noqa: B009


def test_a_changed_command_is_named(docs: Path):
    (docs / "page.md").write_text(PAGE)
    making.make(docs / "page.md")
    text = (docs / "page.md").read_text()
    (docs / "page.md").write_text(text.replace("2), 7", "2), 8"))
    picture, output = checking.made(docs / "page.md")
    assert "page-dot.png was made by another recipe" in picture
    assert "scripts/docs --make docs/page.md" in output
    (docs / "page.md").write_text(text.replace("# what there is", "# other words"))
    assert [*checking.made(docs / "page.md")] == []


def test_a_changed_version_is_named(docs: Path, monkeypatch: pytest.MonkeyPatch):
    (docs / "page.md").write_text(PAGE)
    making.make(docs / "page.md")
    monkeypatch.setattr(pages, "version", lambda: "1.2.4")
    assert len([*checking.made(docs / "page.md")]) == 2


def test_a_page_goes_on_from_another(docs: Path):
    (docs / "page.md").write_text(PAGE)
    (docs / "next.md").write_text("<!-- after: page.md -->\n\n<!-- run -->\n```bash\ncat runs/a/dot.png | wc -l\n```\n")
    making.make(docs / "next.md")
    (before,) = [step.fingerprint for step in pages.recipe(docs / "next.md")]
    (docs / "page.md").write_text(PAGE.replace("7", "8"))
    assert before != pages.recipe(docs / "next.md")[0].fingerprint


EXAMPLE = """<!-- run: makes a.png -->
```bash
python draw.py
```

![A dot](a.png)
"""


def test_an_example_has_its_files(docs: Path, tmp_path: Path):
    page = tmp_path / "examples" / "dot" / "README.md"
    page.parent.mkdir(parents=True)
    (page.parent / "draw.py").write_text("from PIL import Image\nImage.new('L', (2, 2), 7).save('a.png')")
    page.write_text(EXAMPLE)
    making.make(page)
    assert [*checking.made(page)] == []
    with Image.open(page.parent / "a.png") as picture:
        assert picture.getpixel((0, 0)) == 7
    (page.parent / "draw.py").write_text("from PIL import Image\nImage.new('L', (2, 2), 8).save('a.png')")
    (wrong,) = checking.made(page)
    assert "a.png was made by another recipe" in wrong


LONG = """<!-- run -->
```bash
echo 7 > grey
```

<!-- long: 20 minutes, last on 2026-11-23, makes docs/pictures/dot.png -->
```bash
python benchmarks/dot.py $(cat grey)
```

![A dot](pictures/dot.png)
"""
DOT = """import sys
from PIL import Image
Image.new("L", (2, 2), int(sys.argv[1])).save("docs/pictures/dot.png")
"""


def test_what_takes_long_is_run_when_it_is_asked_for(docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page, dot = docs / "page.md", docs / "pictures" / "dot.png"
    dot.parent.mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "dot.py").write_text(DOT)
    page.write_text(LONG)
    Image.new("L", (2, 2), 1).save(dot)
    making.make(page)
    assert [*checking.made(page)] == []
    assert checking.counted() == (0, 0, 1)
    making.make(page, long=True)
    assert "20 minutes, makes" in page.read_text(), "the day has gone, since there is a fingerprint"
    with Image.open(dot) as picture:
        assert picture.getpixel((0, 0)) == 7
    assert [*checking.made(page)] == []
    monkeypatch.setattr(pages, "version", lambda: "1.2.4")
    assert [*checking.made(page)] == [], "of another version, which is counted"
    assert checking.counted() == (1, 1, 0)
    (tmp_path / "benchmarks" / "dot.py").write_text(DOT.replace("int(", "3 + int("))
    (wrong,) = checking.made(page)
    assert wrong.endswith("scripts/docs --make docs/page.md --long")


def test_every_picture_has_a_command(docs: Path):
    (docs / "page.md").write_text(PAGE)
    making.make(docs / "page.md")
    assert [*checking.unmade()] == []
    (docs / "pictures" / "other.png").touch()
    assert [*checking.unmade()] == ["docs/pictures/other.png: no page says by which command it is made"]


def test_a_page_is_made_by_one_at_a_time(docs: Path):
    (docs / "page.md").write_text(PAGE)
    with making.alone(docs.parent / "work" / "page"), pytest.raises(pages.PageError, match="another process"):
        making.make(docs / "page.md")


def test_what_an_earlier_form_of_a_loop_trained_is_cleared(docs: Path):
    loop = "for b in 0 1; do for k in 2 3; do lowerbound train vae --out runs/$b-${k}; done; done"
    assert making.trained(loop) == ["runs/0-2", "runs/0-3", "runs/1-2", "runs/1-3"]
    assert making.trained("lowerbound train vae --out $HOME/a") == making.trained("lowerbound train vae --resume") == []


def test_a_recipe_of_the_library_counts(docs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "RECIPES", tmp_path)
    (docs / "page.md").write_text("<!-- run -->\n```bash\nlowerbound train tiny\n```\n")
    found = []
    for text in ('[about]\ntime = "1 s"\n[train]\nsteps = 1', "[train]\nsteps = 1", "[train]\nsteps = 2"):
        (tmp_path / "tiny.toml").write_text(text)
        found.append(pages.recipe(docs / "page.md")[0].fingerprint)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("language", "code", "wrong"),
    [
        ("bash", "lowerbound train vae --sed 1", "--sed"),
        ("bash", "lowerbound trian vae", "trian"),
        ("bash", "lowerbound train vea", "vae"),
        ("bash", "lowerbound train vae model.latnet=3", "latent"),
        ("bash", "for i in 1 2; do lowerbound sample runs/a -n $i; done", "--out"),
        ("bash", "if true", "syntax error"),
        ("python", "x = = 1", "no Python"),
    ],
)
def test_wrong_code_is_named(docs: Path, language: str, code: str, wrong: str):
    (docs / "page.md").write_text(f"```{language}\n{code}\n```\n")
    (block,) = pages.blocks(docs / "page.md")
    assert wrong in "".join(checking.code(block))


def test_what_is_drawn_anew_each_time_has_a_seed(docs: Path):
    (docs / "page.md").write_text("<!-- run -->\n```bash\nlowerbound sample runs/a -n 4 --out a.png\n```\n")
    (block,) = pages.blocks(docs / "page.md")
    assert "--seed 0" in "".join(checking.code(block))


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_a_mark_leaves_the_picture(kind: str, tmp_path: Path):
    plain = io.BytesIO()
    Image.new("P", (3, 2), 1).save(plain, kind)
    (tmp_path / "a").write_bytes(marks.marked(plain.getvalue(), "recipe abc, lowerbound 0.1.0"))
    assert marks.mark(tmp_path / "a") == "recipe abc, lowerbound 0.1.0"
    with Image.open(tmp_path / "a") as a, Image.open(plain) as b:
        assert a.convert("RGB").tobytes() == b.convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("html", "many"),
    [
        ('<script src="https://cdn.example/a.js"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', 1),
        ('<a href="https://arxiv.org/abs/1312.6114">paper</a><script src="a.js"></script><img src="a.png">', 0),
    ],
)
def test_what_is_fetched_from_elsewhere_is_named(html: str, many: int, tmp_path: Path):
    (tmp_path / "a.html").write_text(html)
    assert len([*checking.outside(tmp_path)]) == many


@pytest.mark.parametrize(
    ("html", "many"),
    [
        ("<math><mo>\\arg</mo></math>", 1),
        ("<p>left as $x^2$</p>", 1),
        ("<math><mi>x</mi></math><code>$HOME</code><pre>a $b</pre>", 0),
    ],
)
def test_an_equation_left_as_it_was_is_named(html: str, many: int, tmp_path: Path):
    (tmp_path / "a.html").write_text(f"<article>{html}</article>")
    assert len([*checking.unread(tmp_path)]) == many


@pytest.mark.parametrize(
    ("html", "many"),
    [
        ("<code>Annotated</code>[<code>int</code>, WHOLE]", 1),
        ("<td><code>dict[str, typing.Any]</code></td>", 1),
        ("a = &lt;function f at 0x7f&gt;", 1),
        ("<td><code>dict[str, Any]</code></td> with 3 * x &lt; y, typing, a class", 0),
    ],
)
def test_workings_of_python_are_named(html: str, many: int, tmp_path: Path):
    (tmp_path / "a.html").write_text(f"<article>{html}</article>")
    assert len([*checking.machinery(tmp_path)]) == many


def test_a_verb_is_called_by_plain_types():
    """In the reference: the types of Python, and what the command line has otherwise."""
    shown = signatures.called(lb.sample, "lb.sample").split("\n")
    assert "    run: Run | str | Path," in shown
    assert "    images: Sequence[str | Path] | None = None,  # on the command line --from" in shown
    assert "    seed: int = 0,  # on the command line by default a new one" in shown
    assert signatures.called(lb.load, "load") == (
        'load(path: str | Path, *, device: str = "auto", allow: Iterable[str] = ()) -> Model'
    )


PRINTED = f"""problem  prior.far  {"the prior is far from the codes " * 4}by as much
                    as this says
         0.5        do: something
"""


@pytest.mark.parametrize(("times", "small"), [(1, True), (2, False), (7, False)])
def test_images_that_are_drawn_larger_already_are_left_so(times: int, small: bool):
    x = np.random.default_rng(0).integers(0, 256, (28, 40), np.uint8)
    assert hooks.small(Image.fromarray(x.repeat(times, 0).repeat(times, 1))) is small


def test_long_lines_that_were_printed_go_on_below_their_column():
    """And take along what went on there already; short tables, and those whose last column is far out, stay."""
    head, more, *rest = printed.narrowed(PRINTED).split("\n")
    assert max(map(len, (head, more))) <= printed.LINE
    assert more[:20].isspace()
    assert f"{head} {more.strip()}".split() == PRINTED.partition("\n         0.5")[0].split()
    assert rest == PRINTED.split("\n")[2:]
    far = f"{'a' * 80}  {'b ' * 40}"
    assert printed.narrowed(far) == far
    block = '<div class="language-text highlight"><pre><span></span><code>{}\n</code></pre></div>'
    assert "sentences" in printed.shown(block.format("lowerbound: no recipe &#39;vea&#39;"))
    assert printed.shown(block.format("a &lt; b")) == block.format("a &lt; b")


def anchors() -> dict[str, set[str]]:
    """Each page of docs/errors/ and its headings."""
    home = ROOT / "docs" / "errors"
    texts = {path: path.read_text(encoding="utf-8") for path in home.rglob("*.md")}
    heading = re.compile(r"^## (\S+)$", re.MULTILINE)
    return {p.relative_to(home).with_suffix("").as_posix(): {*heading.findall(text)} for p, text in texts.items()}


def classes() -> Iterator[tuple[str, str]]:
    """The page of every error of the package that has one of its own."""
    for path in (ROOT / "src" / "lowerbound").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and (
                node.name == "UserError" or "Error" in "".join(map(ast.unparse, node.bases))
            ):
                for line in node.body:
                    targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                    if [getattr(t, "id", "") for t in targets] == ["page"]:
                        yield node.name, ast.literal_eval(line.value)  # pyright: ignore


def test_every_error_has_its_page():
    there, found = anchors(), dict(classes())
    assert {"UserError", "ConfigError", "DataError", "RunError", "ModelError", "TrainingError"} <= found.keys()
    for name, where in [*found.items(), ("not enough memory", "memory")]:
        page, _, anchor = where.partition("#")
        assert page in there, f"{name}: no docs/errors/{page}.md"
        assert not anchor or anchor in there[page], f"{name}: docs/errors/{page}.md has no heading {anchor}"


def findings() -> Iterator[str]:
    """The name of every check of doctor, with nothing in the place of a stage or a level."""
    for path in (ROOT / "src" / "lowerbound" / "verbs" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Check", "self._named") and node.args:
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    yield name.value if "." in name.value else f"training..{name.value}"
                elif isinstance(name, ast.JoinedStr):
                    yield "".join(part.value for part in name.values if isinstance(part, ast.Constant))


def test_every_finding_has_its_page():
    there = {page.removeprefix("doctor/"): found for page, found in anchors().items() if page.startswith("doctor/")}
    names = {*findings()}
    assert len(names) > 35
    for name in names:
        part, what = name.partition(".")[0], name.rpartition(".")[2]
        pages = [part] if part else ["codes", "prior"]
        assert any(what in there[page] for page in pages), f"docs/errors/doctor/ tells nothing of {name}"
    told = {what for found in there.values() for what in found}
    assert told == {name.rpartition(".")[2] for name in names}, "a page tells of what doctor does not look for"


def test_a_finding_names_its_page():
    from lowerbound.verbs.doctor.check import Check

    assert Check("codes.top.dead", 0, 0, True, "advice", "", "").page == "doctor/codes#dead"
    assert Check("latents.collapsed", 0, 0, True, "problem", "", "").page == "doctor/latents#collapsed"


def test_pages_of_errors_come_with_the_package():
    """`lowerbound explain` shows each by what messages say, in a checkout and in a wheel."""
    for where in anchors():
        assert lb.explain(f"(lowerbound.errors/{where})")["text"].startswith("#")
    assert lb.explain("DataError")["page"] == "data"
    collapsed = lb.explain("doctor/latents#collapsed")["text"]
    assert collapsed.startswith("## collapsed\n")
    assert collapsed.count("## ") == 1, "of its page the one part"
    for wrong, right in (("dat", "did you mean data"), ("doctor/latents#colapsed", "did you mean collapsed")):
        with pytest.raises(lb.UserError, match=right):
            lb.explain(wrong)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    ((source, inside),) = wheel["force-include"].items()
    assert (ROOT / source, ROOT / "src" / inside) == (explain.HOME, explain.PAGES)


def test_a_page_is_a_notebook(docs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notebooks, "DOCS", docs)
    (docs / "pictures").mkdir()
    (docs / "pictures" / "other.png").write_bytes(b"a picture of another page")
    (docs / "page.md").write_text(f"{PAGE}\n![Another](pictures/other.png)\n")
    cells = notebooks.notebook(docs / "page.md")["cells"]
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds == ["markdown"] * 2 + ["code"] * 3 + ["markdown"], "title, what it needs, the dot, its picture, ls"
    text = ["".join(cell["source"]) for cell in cells]
    assert text[0] == "# Page"
    assert text[3].endswith('display(Image("runs/a/dot.png"))')
    assert text[4].startswith("%%bash\nls runs/a")
    assert "```" not in "".join(text), "what a page printed is no part of its notebook"
    assert text[5] == "![Another](attachment:other.png)"
    assert base64.b64decode(cells[5]["attachments"]["other.png"]["image/png"]) == b"a picture of another page"


QUICK = "index"  # 8 s: a training of four steps and an evaluation, each of which imports torch


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[] if p.stem == QUICK else pytest.mark.slow, id=p.stem) for p in notebooks.course()]
)
def test_notebooks_run(page: Path, tmp_path: Path):
    """With trainings of a few steps: that every cell is there, and in order, not what it shows."""
    if "--data mnist" in page.read_text(encoding="utf-8") and "LOWERBOUND_DATA" not in os.environ:
        pytest.skip("LOWERBOUND_DATA is not set")
    notebooks.run(notebooks.notebook(page), tmp_path, quick=True)
