"""The site is true: it builds strictly, its commands exist, its pictures are what its commands make."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

from documentation import checking, making, marks, pages  # noqa: E402


def test_the_site():
    """All pages, links, anchors, commands and pictures: 12 s of a core, since every page is drawn."""
    done = subprocess.run([sys.executable, ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pages, with nothing in it."""
    for module in (pages, making, checking):
        monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
        monkeypatch.setattr(module, "ROOT", tmp_path)
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
