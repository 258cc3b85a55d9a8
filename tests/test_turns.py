"""A stage of several turns: each has its own optimizer and schedule, and nothing scores it; and by what others are
scored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lowerbound.errors import ConfigError
from lowerbound.model import Model
from lowerbound.models.vae import VAE
from lowerbound.objectives import ELBO, IWAE
from lowerbound.optimization import Adam, AdamW, Constant, Cosine
from lowerbound.runs.log import score
from lowerbound.runs.run import Run
from lowerbound.stages import Loss, Score, Stage, Turn
from lowerbound.training.loop import Loop
from test_train import Died, Told, assert_same_run, tensors, train

pytestmark = pytest.mark.usefixtures("surroundings")


class Game(nn.Module):
    """Two numbers that pull against each other: one descends a b + a²/2 - a x, the other ascends it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = (nn.ParameterList([nn.Parameter(torch.tensor(1.0))]) for _ in range(2))

    def value(self, x: Tensor) -> Tensor:
        a, b = self.a[0], self.b[0]
        return a * b + a.square() / 2 - b.square() / 2 - a * x.float().flatten(1).mean(1)

    def turns(self) -> tuple[Turn, ...]:
        def of(sign: float, name: str) -> Any:
            def loss(x: Tensor, y: Any, step: int) -> Loss:
                value = sign * self.value(x)
                return Loss(value.mean(), {"value": value.detach()})

            return loss, name

        return (
            Turn((self.a,), *of(1.0, "low"), optimizer=Adam(lr=0.02), schedule=Constant()),
            Turn((self.b,), *of(-1.0, "high"), optimizer=AdamW(lr=0.01), schedule=Cosine()),
        )


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VAE's training is the game, within a model that has all the rest."""
    build = VAE.__init__

    def built(self: VAE, *given: Any) -> None:
        build(self, *given)
        self.decoder.game = Game()  # pyright: ignore

    monkeypatch.setattr(VAE, "__init__", built)
    monkeypatch.setattr(VAE, "stages", lambda self: (Stage("model", self.decoder.game.turns(), score=None),))


def numbers(path: Path, prefix: str = "") -> list[float]:
    found = tensors(path)
    return [float(found[f"{prefix}decoder.game.{name}.0"]) for name in "ab"]


@pytest.mark.usefixtures("game")
def test_two_turns_train_against_each_other_and_their_last_average_is_kept(tmp_path):
    told = Told()
    told.note = lambda text, last: told.say(text)  # pyright: ignore
    out = train(tmp_path / "run", "train.steps=400", "train.valid_every=100", told=told).path
    # the one equilibrium: b = a, and a + b = E[x]
    state = numbers(out / "state/model.safetensors", "model.")
    assert state[0] == pytest.approx(state[1], abs=0.1)
    average = [float(tensors(out / "state/model.safetensors")[f"average.{i}"]) for i in range(2)]
    assert numbers(out / "model.safetensors") == average != state
    records = list(Run.open(out).log.records())
    train_lines = [r for r in records if r["split"] == "train"]
    assert {"low.loss", "high.loss", "low.grad_norm", "high.value", "low.lr", "high.lr"} <= train_lines[-1].keys()
    assert "loss" not in train_lines[-1]
    assert (train_lines[-1]["low.lr"], train_lines[0]["high.lr"]) == (0.02, pytest.approx(0.01, rel=1e-2))
    assert train_lines[-1]["high.lr"] < 1e-5
    valid = [r for r in records if r["split"] == "valid"]
    assert {r["kept"] for r in valid} == {"the last averaged weights"}
    assert all(score(r) is None for r in valid)
    assert told.said[-1] == "step 400: kept the last averaged weights; nothing scores them"


@pytest.mark.usefixtures("game")
def test_two_turns_are_killed_and_resumed_exactly(tmp_path, monkeypatch):
    whole, out = train(tmp_path / "whole").path, tmp_path / "parts"
    for step in (1, 20, 33, 59):
        taken = Loop._step

        def dying(loop: Loop, step: int = step, taken: Any = taken) -> Any:
            if loop.step == step:
                raise Died
            return taken(loop)

        with monkeypatch.context() as m:
            m.setattr(Loop, "_step", dying)
            with pytest.raises(Died):
                train(out, "train.save_seconds=1e-9", resume=True)
    train(out, "train.save_seconds=60", resume=True)
    assert_same_run(whole, out)


@pytest.mark.usefixtures("game")
def test_patience_needs_a_score(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.patience=3: nothing scores the stage model"):
        train(tmp_path / "run", "train.patience=3")
    assert not (tmp_path / "run").exists()


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
