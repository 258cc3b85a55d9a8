"""A stage of several turns: each has its own optimizer and schedule, and nothing scores it; and by what others are
scored."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from lowerbound import testing
from lowerbound.data.base import Data
from lowerbound.errors import ConfigError
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.objectives import ELBO, IWAE
from lowerbound.runs.log import score
from lowerbound.runs.run import Run
from lowerbound.sampling.sheets import Live
from lowerbound.stages import Loss, Score, Turn
from lowerbound.testing.adversarial import DiracGAN
from lowerbound.training import train as training
from lowerbound.training.loop import Loop
from test_train import Died, Told, assert_same_run, tensors, train

pytestmark = pytest.mark.usefixtures("surroundings")


def play(out: Path, *changes: str, **options: Any) -> Run:
    """Train a generator and a critic on digits."""
    words = ("train.steps=60", "train.batch=32", "train.log_every=7", "train.valid_every=20", *changes)
    recipe = {"data": {"source": "digits"}, "model": {"type": "testing.adversarial.DiracGAN"}}
    path = out.with_name("game.json")
    path.write_text(json.dumps(recipe))
    return training.train(path, out=out, changes=words, device="cpu", pictures=Live, **options).run


def test_two_turns_train_against_each_other_and_their_last_average_is_kept(tmp_path):
    told = Told()
    told.note = lambda text, last: told.say(text)  # pyright: ignore
    out = play(tmp_path / "run", "train.steps=1500", "train.valid_every=500", progress=told).path
    kept, state = tensors(out / "model.safetensors"), tensors(out / "state/model.safetensors")
    # the one equilibrium: the generator's mean is that of the data, and the critic sees no difference
    mean = torch.from_numpy(Data(source="digits").open("train").x).double().flatten(1).mean(0) / 16
    assert (kept["generator.0"] - mean).abs().max() < 0.1
    assert kept["critic.0"].abs().max() < 0.1
    assert torch.equal(kept["critic.0"], state["average.0"])
    assert not torch.equal(kept["critic.0"], state["model.critic.0"])
    records = list(Run.open(out).log.records())
    lines = [r for r in records if r["split"] == "train"]
    names = {"critic.loss", "generator.loss", "critic.grad_norm", "critic.difference", "generator.value"}
    assert names <= lines[-1].keys()
    assert "loss" not in lines[-1]
    assert (lines[-1]["critic.lr"], lines[0]["generator.lr"]) == (0.02, pytest.approx(0.05, rel=1e-2))
    assert lines[-1]["generator.lr"] < 1e-5
    valid = [r for r in records if r["split"] == "valid"]
    assert {r["kept"] for r in valid} == {"the last averaged weights"}
    assert all(score(r) is None for r in valid)
    assert told.said[-1] == "step 1,500: kept the last averaged weights; nothing scores them"
    x = Run.open(out).load().sample(1, temperature=0.0).double()
    assert (x.flatten() / 16 - mean).abs().max() < 0.1 + 0.5 / 16


def test_two_turns_are_killed_and_resumed_exactly(tmp_path, monkeypatch):
    whole, out = play(tmp_path / "whole").path, tmp_path / "parts"
    for step in (1, 20, 33, 59):
        taken = Loop._step

        def dying(loop: Loop, step: int = step, taken: Any = taken) -> Any:
            if loop.step == step:
                raise Died
            return taken(loop)

        with monkeypatch.context() as m:
            m.setattr(Loop, "_step", dying)
            with pytest.raises(Died):
                play(out, "train.save_seconds=1e-9", resume=True)
    play(out, "train.save_seconds=60", resume=True)
    assert_same_run(whole, out)


def test_patience_needs_a_score(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.patience=3: nothing scores the stage model"):
        play(tmp_path / "run", "train.patience=3")
    assert not (tmp_path / "run").exists()


def test_the_battery_finds_what_is_wrong_with_turns(monkeypatch):
    def found() -> str:
        with pytest.raises(AssertionError) as e:
            testing.check_training(DiracGAN.Config)
        return str(e.value)

    testing.check_training(DiracGAN.Config)
    stages = DiracGAN.stages
    turns = lambda self: stages(self)[0].turns  # noqa: E731

    def with_turns(of: Callable[..., tuple[Turn, ...]]) -> None:
        monkeypatch.setattr(DiracGAN, "stages", lambda self: (stages(self)[0]._replace(turns=of(self)),))

    with_turns(lambda self: tuple(turn._replace(name="same") for turn in turns(self)))
    assert "turns of one name" in found()
    still = lambda self: lambda x, y, step: Loss(0 * self.generator[0].sum(), {})  # noqa: E731
    with_turns(lambda self: (turns(self)[0], turns(self)[1]._replace(loss=still(self))))
    assert "the turn generator moves none of its parameters" in found()
    monkeypatch.setattr(DiracGAN, "stages", stages)
    with monkeypatch.context() as m:  # the last weights are kept, and said to be the average
        m.setattr(Loop, "_averaged", lambda self: nullcontext())
        assert "is not the last average" in found()
    with monkeypatch.context() as m:  # a state that forgets
        m.setattr(DiracGAN, "after_step", lambda self: self.generator[0].data.add_(next(DRIFT)))
        assert "stopped and resumed" in found()


DRIFT = count(1.0, 0.1)


# --- by what weights are chosen


def test_a_stage_is_scored_by_what_it_is_trained_for(tmp_path):
    vae = VAE.Config.example()[0]

    def of(objective: Any) -> Score | None:
        config = vae.model_copy(update={"objective": objective})
        model: Model = config.build(VAE.Config.example()[1])
        return model.stages()[0].score

    assert [of(o) for o in (ELBO(), ELBO(beta=8.0), IWAE(draws=7))] == [Score(1), Score(None), Score(7)]
    for change, name in (
        ("model.objective.beta=8", "minus_loss"),
        ("model.objective=objectives.IWAE", "iwae"),
        ("model.objective.beta=1", "elbo"),
    ):
        run = train(tmp_path / name, change, "train.averaging=null")
        valid = [r for r in run.log.records() if r["split"] == "valid"]
        assert all({"elbo", name} <= r.keys() for r in valid)  # the plain bound is always told
        assert all(r[name] == score(r) == r["weights"] for r in valid)
        state = run.states()["model"]
        assert state["best"] == max(r[name] for r in valid)
    iwae = [r for r in Run.open(tmp_path / "iwae").log.records() if r["split"] == "valid"]
    assert all(r["iwae"] > r["elbo"] for r in iwae)
