"""What is exported says what torch says: every model's parts, as graphs for batches of any size; files and metadata."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowerbound as lb
from command import call, right
from lowerbound.config import components
from lowerbound.errors import ModelError
from lowerbound.exporting import graphs
from lowerbound.exporting.parts import drawn, parts
from lowerbound.model import Model
from lowerbound.priors import FullGaussianMixture, Gaussian, GaussianMixture
from lowerbound.space import Space

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
        worst = graphs.differing(model, part, lambda x, p=program: [t.detach().numpy() for t in p(*x)], Path("file"))
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
        ((run, "--out", tmp_path / "m.jpg"), "expected a file ending in .onnx or .pt2"),
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
