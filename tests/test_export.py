"""What is exported says what torch says: every model's parts, as graphs for batches of any size; files and metadata;
a page, whose document lets nothing in or out."""

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import call, right
from lowerbound.config import components
from lowerbound.distributions import detached, tempered
from lowerbound.editing.latents import codec
from lowerbound.errors import ModelError
from lowerbound.exporting import graphs
from lowerbound.exporting.parts import drawn, parts
from lowerbound.exporting.pulled import can_draw, pulled
from lowerbound.model import Draw, Generating, LatentModel, Model
from lowerbound.priors import FullGaussianMixture, Gaussian, GaussianMixture
from lowerbound.runs.run import Run
from lowerbound.space import Space
from lowerbound.verbs.export import bundle, page
from lowerbound.verbs.export.page import write_page

pytestmark = pytest.mark.usefixtures("surroundings")
MODELS = [kind for kind in components(Model.Config) if kind.__module__.startswith("lowerbound.models")]
NONE = {  # models that no graph says, and why
    "models.discrete_diffusion.DiscreteDiffusion": "its draws are no function of noise",
    "models.flow.Flow": "its draws are no function of noise",
    "models.gsn.GSN": "its draws are no function of noise",
    "models.views.GQN": "other views of a scene",
}


@pytest.fixture(scope="module")
def run(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A conditional VAE of digits after ten steps: what is checked needs no better one."""
    path = tmp_path_factory.mktemp("export") / "run"
    small = ("model.encoder.hidden=[8]", "model.decoder.hidden=[8]", "model.latent=3", "train.steps=10")
    right("train", "vae", "--out", path, "data.label=true", *small)
    return path


def built(kind: type[Model.Config]) -> Model:
    config, space, given = kind.example()
    torch.manual_seed(0)
    return config.build(space, given).eval()


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.type_name())
def test_every_part_is_a_graph_for_any_batch(kind: type[Model.Config]):
    model, name = built(kind), kind.type_name()
    if name in NONE:
        with pytest.raises(ModelError, match=NONE[name]):
            parts(model)
        return
    before = dict(model.state_dict())
    for part in parts(model):
        program = graphs.traced(model, part, graphs.example(part, graphs.TRACED, 0)).module()
        worst = graphs.checked(model, part, lambda x, p=program: [t.detach().numpy() for t in p(*x)], Path("file"))
        assert worst <= 1e-6, part.name
    assert list(model.state_dict()) == list(before)  # tracing leaves the model as it was


def test_a_mixture_is_drawn_as_by_its_formula():
    """A uniform number picks the component, and noise is shifted and scaled by it."""
    space, n = Space((2,)), 4000
    generator = torch.Generator().manual_seed(0)
    noise, choice = torch.randn(n, 2, generator=generator), torch.rand(n, generator=generator)
    for prior in (GaussianMixture, FullGaussianMixture):
        model: Any = prior.Config(components=3).build(space)
        p = model.distribution()
        z = drawn(p, noise, choice)
        component = drawn(p.component_distribution, noise[:, None])
        share = p.mixture_distribution.probs.detach().cumsum(0)
        k = torch.tensor([sum(float(u) >= float(s) for s in share[:-1]) for u in choice])
        torch.testing.assert_close(z, component[torch.arange(n), k])
    torch.testing.assert_close(drawn(Gaussian.Config().build(space).distribution(), noise), noise)


def test_onnx_says_what_torch_says(run: Path, tmp_path: Path):
    """Against the library itself, by another reader, on other images in another batch, with what one has to know."""
    import onnx
    import onnxruntime

    report = lb.export(run, out=tmp_path / "m.onnx")
    assert {*report["files"]} == {"encoder", "decoder"}
    assert report["left_out"] == {}
    model, n = lb.load(run), 7
    x = torch.randint(0, 17, (n, 1, 8, 8)).to(torch.uint8)
    label = torch.arange(n)
    session = onnxruntime.InferenceSession(tmp_path / "m.encoder.onnx")
    z, stddev = session.run(None, {"x": x.numpy(), "label": label.numpy()})
    q = model.encode(x, label)
    np.testing.assert_allclose(z, q.mean.detach(), atol=1e-4)
    np.testing.assert_allclose(stddev, q.stddev.detach(), atol=1e-4)
    (mean,) = onnxruntime.InferenceSession(tmp_path / "m.decoder.onnx").run(None, {"z": z, "label": label.numpy()})
    np.testing.assert_allclose(mean, model.decode(q.mean, label).mean.detach(), atol=1e-4 * 16)

    proto = onnx.load(tmp_path / "m.encoder.onnx")
    said = json.loads({p.key: p.value for p in proto.metadata_props}["lowerbound"])
    assert [i["name"] for i in said["inputs"]] == ["x", "label"]
    assert said["inputs"][0]["range"] == [0, 16]
    assert said["labels"] == [*"0123456789"]
    assert said["likelihood"]["relation"] == "<="
    assert said["preparation"]["steps"] == ["resized to 8x8", "grey", "round(byte * 16 / 255)"]
    assert said["prior"] == {"z": "N(0, I)"}
    assert said["checked"]["difference"] <= graphs.TOLERANCE
    assert str(Path(lb.__file__).parent) not in str(proto)  # nothing of the machine it was made on


def test_a_program_says_what_torch_says(run: Path, tmp_path: Path):
    report = right("export", run, "--out", tmp_path / "d.pt2", "--part", "decoder", "--json").json
    assert [f["path"] for f in report["files"].values()] == [str(tmp_path / "d.pt2")]
    extra = {"lowerbound.json": ""}
    program = torch.export.load(tmp_path / "d.pt2", extra_files=extra).module()
    z, label = torch.randn(6, 3), torch.arange(6)
    torch.testing.assert_close(program(z, label)[0], lb.load(run).decode(z, label).mean)
    assert json.loads(extra["lowerbound.json"])["part"] == "decoder"


def test_a_file_that_says_something_else_is_not_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = graphs._Program.opened
    monkeypatch.setattr(
        graphs._Program,
        "opened",
        lambda self, path: lambda inputs: [out + 0.1 for out in opened(self, path)(inputs)],
    )
    with pytest.raises(ModelError, match=r"z of encoder is off by .* more than 0.0001"):
        lb.export(run, out=tmp_path / "m.pt2")
    assert not [*tmp_path.iterdir()]


def test_mistakes_are_answered_in_a_sentence(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for words, answer in (
        ((run, "--out", tmp_path / "m.jpg"), "expected a file ending in .onnx, .pt2 or .html"),
        ((run, "--out", tmp_path / "m.pt2", "--part", "encodr"), "did you mean encoder?"),
        ((tmp_path / "none", "--out", tmp_path / "m.pt2"), "no such run"),
    ):
        done = call("export", *words)
        assert (done.status, answer in done.err) == (2, True), done.err
    monkeypatch.setattr(graphs, "NEEDED", ("a_package_nobody_has",))
    done = call("export", run, "--out", tmp_path / "m.onnx")
    assert (done.status, "pip install 'lowerbound[onnx]'" in done.err) == (2, True)
    monkeypatch.undo()

    config = json.loads((run / "config.json").read_text())
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "config.json").write_text(json.dumps(config | {"format": 99}))
    assert "newer than this one" in call("export", newer, "--out", tmp_path / "m.pt2").err


def test_a_run_that_is_being_written_is_said(run: Path, tmp_path: Path):
    from lowerbound.progress import Progress
    from lowerbound.runs import lock

    with lock.held(run, Progress()):
        done = right("export", run, "--out", tmp_path / "m.pt2", "--part", "decoder")
    assert "is still being written by process" in done.err


# ---- pages


@pytest.fixture(scope="module")
def document(run: Path) -> str:
    right("direction", run, "eight", "--label", "8")
    path = run / "digits.html"
    report = lb.export(run, out=path)
    assert report["files"]["page"]["bytes"] == path.stat().st_size < 6_000_000
    return path.read_text(encoding="utf-8")


def block(document: str, name: str) -> str:
    found = re.search(rf'<script type="[\w/-]+" id="{name}">(.*?)</script>', document, re.DOTALL)
    assert found
    return found[1]


def test_the_page_lets_nothing_in_or_out(document: str):
    """The policy allows this script and this style alone, by their hashes, and no address whatever."""
    found = re.search(r'Content-Security-Policy" content="([^"]+)"', document)
    assert found
    assert document.index(found[0]) < document.index("<style>") < document.index("<script")
    script = re.search(r'<script type="module">(.*?)</script>', document, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", document, re.DOTALL)
    assert script
    assert style
    for text in (script[1], style[1]):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in found[1]
    assert "default-src 'none'" in found[1]
    assert "connect-src" not in found[1]
    assert "unsafe-inline" not in found[1]
    assert document.count("<script") == 5  # one that runs, and four blocks of data
    for path in (*bundle.OWN.glob("*.js"), bundle.OWN / "index.html"):
        assert "://" not in path.read_text(encoding="utf-8"), path


def test_what_is_vendored_is_what_was_fetched():
    script = Path(__file__).resolve().parent.parent / "scripts" / "vendor"
    found: dict[str, Any] = {"__name__": "vendor", "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), found)
    for name, sha in found["FILES"].items():
        assert hashlib.sha256(found["held"](name)).hexdigest() == sha, name
    assert "MIT License" in (bundle.RUNTIME / "LICENSE").read_text()


def test_the_scripts_are_one_in_their_order():
    """Whatever a module takes stands before it, and it takes nothing that is not exported."""
    text = bundle.scripts("/page/main.js")
    made = re.findall(r"^const (\$\w+) = \(\(\) => \{$", text, re.MULTILINE)
    for before, name in enumerate(made):
        body = text.split(f"const {name} = ")[1].split("\nconst $")[0]
        assert {*re.findall(r"\} = (\$\w+);", body)} <= {*made[:before]}, name
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)
    for names, source in re.findall(r"^const \{ (.*?) \} = (\$\w+);", text, re.MULTILINE):
        body = text.split(f"const {source} = ")[1].split("\nconst $")[0]
        given = re.findall(r"\b(\w+)", body[body.rindex("return {") :])
        assert {name.strip() for name in names.split(",")} <= {*given}, source


def test_the_page_is_told_what_moves_the_picture(document: str, run: Path):
    about = json.loads(block(document, "about"))
    assert about["name"] == "run"
    assert about["classes"] == [*"0123456789"]
    assert about["pixels"] == 17
    assert sorted(about["order"]) == [0, 1, 2]
    (eight,) = about["directions"]
    assert eight["name"] == "eight"
    np.testing.assert_allclose(eight["step"], lb.load(run).directions["eight"].step)
    assert about["draws"]


def test_its_graph_decodes_as_the_library_does(document: str, run: Path):
    import onnxruntime

    graph = gzip.decompress(base64.b64decode(block(document, "graph")))
    session: Any = onnxruntime.InferenceSession(graph)
    n, generator = 50, torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, n, 3, generator=generator)
    label = torch.arange(n) % 10
    inputs = {"z": z, "noise": noise, "choice": torch.rand(n, 1), "label": label, "temperature": torch.tensor(0.5)}
    editor = codec(Run.open(run))
    for fresh, code in ((0.0, z), (1.0, 0.5 * noise)):
        named = {k: v.numpy() for k, v in (inputs | {"fresh": torch.full((n, 1), fresh)}).items()}
        mean, taken = session.run(None, named)
        np.testing.assert_allclose(taken, code, atol=1e-6)
        right_one = editor.decode(code, label)
        assert np.abs(mean - right_one.numpy()).max() <= graphs.HALF * 16  # weights are float16


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.type_name())
def test_models_with_real_latents_have_such_a_graph(kind: type[Model.Config]):
    """And it says what the model says, of codes and of draws; the others are refused."""
    config, space, given = kind.example()
    torch.manual_seed(0)
    model = config.build(space, given).eval()
    real = isinstance(model, Generating) or (
        isinstance(model, LatentModel) and all(latent.levels is None for latent in model.latents)
    )
    if not real:
        with pytest.raises(ModelError, match="no latents of real numbers, which"):
            pulled(model)
        return
    if kind.type_name() == "models.views.GQN":
        return
    part = pulled(model)
    assert len(part.inputs) == 1 + 4 * can_draw(model) + len(model.given)
    mean, code = graphs.Graph(model, part)(*graphs.example(part, 3, 0))
    assert mean.shape == (3, *space.shape)
    assert code.shape == graphs.example(part, 3, 0)[0].shape


def test_levels_are_drawn_given_the_coarser_at_a_temperature():
    """Against the model's own draws: those of a hierarchical VAE at temperature 0 are the means of its priors."""
    config, space, given = next(k for k in MODELS if k.type_name() == "models.hierarchical.HierarchicalVAE").example()
    torch.manual_seed(0)
    model: Any = config.build(space, given).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    part, n = pulled(model), 4
    D = part.inputs[0].space.dims
    z, noise = torch.randn(2, n, D)
    first = model.latents[0].dims
    fresh = torch.tensor([[0.0, 1.0]]).expand(n, 2)
    with torch.no_grad():
        mean, code = graphs.Graph(model, part)(z, noise, torch.rand(n, 2), fresh, torch.tensor(0.0))
        coarse = z[:, :first].unflatten(1, model.latents[0].shape)
        levels = model.draw_latents(n, None, Draw(0.0), coarse=(coarse,))
        torch.testing.assert_close(code, torch.cat([level.flatten(1) for level in levels], 1))
        torch.testing.assert_close(mean, model.likelihood(levels).mean)
        cold = graphs.Graph(model, part)(z, noise, torch.rand(n, 2), fresh, torch.tensor(1.0))[1]
    p = model.prior_of(1, (coarse,))
    torch.testing.assert_close(
        cold[:, first:], (p.mean + p.stddev * noise[:, first:].unflatten(1, p.event_shape)).flatten(1)
    )


@pytest.mark.parametrize("prior", [GaussianMixture, FullGaussianMixture, Gaussian])
def test_priors_of_noise_are_graphs_for_any_batch(prior: Any):
    kind = next(k for k in MODELS if k.type_name() == "models.vae.VAE")
    config, space, given = kind.example()
    model = config.model_copy(update={"prior": prior.Config()}).build(space, given).eval()
    for part in (*parts(model), pulled(model)):
        program = graphs.traced(model, part, graphs.example(part, graphs.TRACED, 0)).module()
        worst = graphs.checked(model, part, lambda x, p=program: [t.detach().numpy() for t in p(*x)], Path("file"))
        assert worst <= 1e-6


def test_a_mixtures_component_is_chosen_at_its_temperature():
    """Weights π^(1/t), as `distributions.tempered` has them."""
    prior: Any = GaussianMixture.Config(components=3).build(Space((2,)))
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))
    p = detached(prior.distribution())
    choice, noise = torch.linspace(0, 0.999, 1000), torch.zeros(1000, 2)
    z = drawn(p, noise, choice, torch.tensor(0.5))
    weights = tempered(p, 0.5).mixture_distribution.probs  # pyright: ignore[reportAttributeAccessIssue]
    for k, mean in enumerate(p.component_distribution.mean):
        share = float((z == mean).all(-1).float().mean())
        assert share == pytest.approx(float(weights[k]), abs=0.002)


def test_what_no_page_can_run_is_refused_in_a_sentence(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "page.html"
    done = call("export", run, "--out", out, "--part", "decoder")
    assert (done.status, "a page has the decoder alone" in done.err) == (2, True)
    done = call("export", "pretrained:pixelcnn-mnist", "--out", out)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "latent" in done.err
    monkeypatch.setattr(page, "LARGEST", 1_000_000)
    monkeypatch.setattr(graphs, "write", lambda model, part, file, facts, half: file.write_bytes(b"") or {})
    with pytest.raises(ModelError, match=r"would have 5 MB, more than the 1 MB that one may have"):
        write_page(Run.open(run), out)
    assert not out.exists()
