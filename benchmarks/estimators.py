"""Estimators of the gradient through discrete latents: their noise and time a step, and what they train to.

    python benchmarks/estimators.py                              # noise and time, a minute
    python benchmarks/estimators.py --train --steps 3000         # and trainings of cat-vae-mnist, one for each
    python benchmarks/estimators.py --train --device cuda --estimators GumbelSoftmax,RLOO

Noise: the standard deviation of the encoder's gradient over draws, as a share of the norm of its mean, for one batch of
64 images and 20 variables (binary, or of 10 values) at weights half way to where they go, and 8 binary ones, few enough
to be enumerated; two draws are asked of those that take several. Time is that of such a step. VIMCO's gradient is that
of the importance-weighted bound of 5 draws. Trainings are compared at equal steps, and at the time that the quickest of
them took: the validation ELBO of the log there, from true draws.
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from common import finish, machine, parser, set_threads, show
from lowerbound.config import dump, parse
from lowerbound.data.base import Data
from lowerbound.estimators import Estimator
from lowerbound.families import Bernoulli, Categorical
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.noise import seeded
from lowerbound.objectives import ELBO, IWAE
from lowerbound.priors import Categorical as Uniform
from lowerbound.space import Space
from lowerbound.training.train import train as run_training

ANY = ("Reinforce", "RLOO", "REBAR", "GumbelSoftmax", "StraightThroughGumbel", "StraightThrough", "VIMCO")
BINARY = ("ARM", "DisARM")
WORLDS = ((2, 20, (*ANY, *BINARY)), (10, 20, ANY), (2, 8, (*ANY, *BINARY, "Enumeration")))
"""The values that a variable takes, how many variables there are, and who has a gradient through them."""
OBJECTIVES = {"Reinforce": ELBO(draws=2), "RLOO": ELBO(draws=2), "VIMCO": IWAE(draws=5)}
"""The others need one draw, or make their own pairs."""


def model(levels: int, variables: int, name: str) -> VAE:
    net = MLP.Config(hidden=(200,))
    config = VAE.Config(
        latent=(variables,),
        latent_levels=levels,
        posterior=Bernoulli() if levels == 2 else Categorical(),
        prior=Uniform.Config(),
        encoder=net,
        decoder=net,
        estimator=parse(Estimator, {"type": f"estimators.{name}"}),
        objective=OBJECTIVES.get(name, ELBO()),
    )
    with seeded("weights"):
        return config.build(Space((1, 8, 8), levels=2))


def trained(levels: int, variables: int, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weights after 200 steps of a relaxed training: neither new nor done."""
    start = model(levels, variables, "StraightThroughGumbel").train()
    optimizer = torch.optim.Adam(start.parameters(), 1e-3)
    with seeded("half way"):
        for _ in range(200):
            optimizer.zero_grad()
            start.loss(x).value.backward()
            optimizer.step()
    return start.state_dict()


def noise(own: VAE, x: torch.Tensor, repeats: int) -> tuple[float, float]:
    """The noise of a model's gradient, and the milliseconds of a step."""
    encoder, found, times = list(own.encoder.parameters()), [], []
    with seeded("draws"):
        for _ in range(repeats):
            begun = time.perf_counter()
            gradients = torch.autograd.grad(own.loss(x).value, encoder)
            times.append(time.perf_counter() - begun)
            found.append(torch.cat([g.flatten() for g in gradients]))
    each = torch.stack(found)
    return float(each.var(0).sum().sqrt() / each.mean(0).norm()), 1e3 * median(times)


def run_trainings(names: list[str], steps: int, device: str, seed: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            out = Path(folder) / name
            train = {"steps": steps, "valid_every": max(1, steps // 20), "schedule": {"type": "optimization.Constant"}}
            options = {"estimator": {"type": f"estimators.{name}"}, "objective": dump(OBJECTIVES.get(name, ELBO()))}
            changes = [{"train": train, "model": options}]
            run_training("cat-vae-mnist", out=out, seed=seed, device=device, changes=changes)
            lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
            found[name] = [line for line in lines if line["split"] == "valid"]
    quickest = min(lines[-1]["seconds"] for lines in found.values())
    return {name: _compared(lines, quickest) for name, lines in found.items()}


def _compared(lines: list[dict[str, float]], seconds: float) -> dict[str, float]:
    in_time = [line for line in lines if line["seconds"] <= seconds * 1.001]
    return {
        "seconds": lines[-1]["seconds"],
        "nats_at_equal_steps": -lines[-1]["elbo"],
        "nats_at_equal_time": -in_time[-1]["elbo"],
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--repeats", type=int, default=300)
    p.add_argument("--train", action="store_true", help="also train cat-vae-mnist with each")
    p.add_argument("--steps", type=int, default=3000)
    p.add_argument("--estimators", default=",".join(ANY))
    p.add_argument("--device", default="auto")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    set_threads(args.threads)
    torch.set_num_threads(args.threads)
    about, figures = machine(args.threads), {}
    x = torch.from_numpy((Data(source="digits").open("train").x[:64] > 8).astype("uint8"))
    for levels, variables, names in WORLDS:
        weights, rows = trained(levels, variables, x), {}
        for name in names:
            own = model(levels, variables, name).train()
            own.load_state_dict(weights)
            rows[name] = noise(own, x, args.repeats)
        title = f"{variables} variables of {levels} values: noise of the gradient, milliseconds a step"
        show(title, [(name, f"{a:7.2f} {b:7.2f}") for name, (a, b) in sorted(rows.items(), key=lambda r: r[1][0])])
        figures[f"{variables}_variables_of_{levels}"] = rows
    if args.train:
        figures["trainings"] = run_trainings(args.estimators.split(","), args.steps, args.device, args.seed)
        title = "cat-vae-mnist, -ELBO of the validation images in nats: seconds, at equal steps, at equal time"
        rows = {name: " ".join(f"{v:8.2f}" for v in row.values()) for name, row in figures["trainings"].items()}
        show(title, list(rows.items()))
    finish(args, about, figures)


if __name__ == "__main__":
    main()
