"""The examples set what processes read, and what is computed of their bytes is what they send."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.run import parse_args

import lowerbound as lb
from command import right
from lowerbound import testing
from lowerbound.errors import UserError
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.networks.residual import ResidualMLP
from lowerbound.parallel import World, sharing
from lowerbound.parallel.environment import NEEDED, Environment
from lowerbound.runs.recipes import Training
from lowerbound.space import Space
from lowerbound.training.movers import Movers
from worlds import records

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))
from scale import NUMBER, Volume, seconds  # noqa: E402

SMALL: Any = MLP.Config(hidden=(8,))


def test_two_processes_send_the_bytes_that_are_computed():
    """One pass over the gradients; beside them a few numbers: the loss, its terms, and what processes ask."""

    def told(world: World) -> tuple[float, int]:
        model = VAE.Config(latent=(2,), encoder=SMALL, decoder=SMALL).build(Space((1, 4, 4), levels=2))
        movers = Movers(model, model.stages()[0], Training(steps=1, batch=5), 1, torch.device("cpu"), world=world)
        with sharing(world, 5) as rows:
            movers.step([(torch.ones(rows.n, 1, 4, 4, dtype=torch.uint8), None)], 0)
        return world.told_bytes, sum(p.numel() for p in model.parameters())

    for sent, parameters in testing.in_threads(2, told):
        assert NUMBER * parameters < sent <= NUMBER * (parameters + 8)
        assert Volume(parameters).summed(2) == NUMBER * parameters  # of a ring of two each sends half, twice


def test_two_processes_that_share_weights_out_send_the_bytes_that_are_computed():
    """Gathered once or, in blocks, twice, and scattered once; beside them a few numbers."""
    network: Any = ResidualMLP.Config(width=8)

    def told(world: World) -> tuple[float, int, int]:
        model = VAE.Config(latent=(2,), encoder=network, decoder=network).build(Space((1, 4, 4), levels=2))
        networks: Any = (model.encoder, model.decoder)
        parts = (model, *(block for network in networks for block in network.apart))
        counts = [sum(p.numel() for p in part.parameters()) for part in parts]
        training = Training(steps=1, batch=5, shard=True)
        movers = Movers(model, model.stages()[0], training, 1, torch.device("cpu"), world=world)
        world.told_bytes = 0.0
        with sharing(world, 5) as rows:
            movers.step([(torch.ones(rows.n, 1, 4, 4, dtype=torch.uint8), None)], 0)
        return world.told_bytes, counts[0], sum(counts[1:])

    for sent, parameters, apart in testing.in_processes(2, told):
        volume = Volume(parameters).sharded(2, apart / parameters)
        assert volume < sent <= volume + 10 * NUMBER
        assert Volume(parameters).summed(2) < volume < Volume(parameters).sharded(2)


def test_a_step_of_many_is_its_part_and_what_is_said():
    assert Volume(100).summed(4) == 2 * 3 / 4 * 400
    assert Volume(100).sharded(4) == 3 * 3 / 4 * 400
    assert seconds(1.0, 10, 0.0, 1.0, 4) == pytest.approx(3, abs=1e-4)  # the largest part of ten images
    assert seconds(0.0, 1, 8.0, 2.0, 1) == 4


FAKES = {
    "scontrol": "echo alpha; echo beta",
    "srun": 'shift; for r in 0 1; do SLURM_PROCID=$r SLURM_LOCALID=0 "$@"; done',
    "lowerbound": 'env | grep -E "^(RANK|WORLD_SIZE|LOCAL_RANK|MASTER_ADDR|MASTER_PORT)="; echo "words $*"',
}


def test_the_slurm_script_says_who_each_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_NODELIST": "x", "JOB_ID": "41234", "NTASKS": "2", "CPUS_PER_TASK": "3"}
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {f"SLURM_{name}": value for name, value in slurm.items()}
    script = ROOT / "examples/slurm.sh"
    done = subprocess.run(["bash", script, "vae", "--out", "a b"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("words train vae --out a b --resume\n")[:2]
    for rank, said in enumerate((first, second)):
        for line in said.split():
            monkeypatch.setenv(*line.split("="))
        assert Environment.read() == Environment(rank, 2, 0, 0)
        assert os.environ["MASTER_ADDR"] == "alpha"
        assert 20000 <= int(os.environ["MASTER_PORT"]) < 40000


def test_the_job_of_kubernetes_is_a_command_of_torchrun():
    text = (ROOT / "examples/kubernetes.yaml").read_text()
    lines = re.search(r"command:\n((?: +- .*\n)+)", text)
    assert lines
    words = [line.strip().removeprefix("- ") for line in lines.group(1).splitlines()]
    assert words[0] == "torchrun"
    asked = parse_args([word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in words[1:]])
    assert (asked.nnodes, asked.nproc_per_node, asked.node_rank, asked.max_restarts) == ("2", "8", 1, 3)
    assert (asked.module, asked.training_script) == (True, "lowerbound")
    assert asked.training_script_args[0] == "train"
    assert "--resume" in asked.training_script_args


JOINED = """
import sys
import torch.distributed as dist
import lowerbound as lb
dist.init_process_group("gloo")
run = lb.train("vae", out=sys.argv[1], train={"steps": 4, "batch": 9}, device="cpu")
print(lb.evaluate(run, limit=5, draws=3, metrics=["nll"])["metrics"]["nll"]["n"], dist.get_rank())
"""


@pytest.mark.slow  # starts Python twice
def test_a_worker_that_is_in_a_group_of_torch_s_already_trains(tmp_path: Path):
    """As Ray Train's, accelerate's and Fabric's are: the variables are set, and init_process_group was called."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "NODE_RANK": "0", "ACCELERATE_TORCH_DEVICE": "cpu"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", JOINED, str(tmp_path / "run")],
            env={**os.environ, **shared, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    assert [w.communicate()[0].split() for w in workers] == [["5", "0"], ["5", "1"]]


@pytest.mark.slow  # starts Python six times
def test_python_asks_several_processes(tmp_path: Path):
    """Reports and arrays come back whole, and what can't be is said as ever."""
    run = lb.train("vae", out=tmp_path / "run", train={"steps": 4}, device="cpu").path
    report, alone = (lb.evaluate(run, limit=5, draws=3, metrics=["nll"], processes=n) for n in (2, 1))
    assert report["metrics"]["nll"]["value"] == pytest.approx(alone["metrics"]["nll"]["value"], rel=1e-6)
    drawn, alone = (lb.sample(run, 5, seed=1, processes=n, out=tmp_path / f"{n}.png") for n in (2, 1))
    assert (drawn.x == alone.x).all()
    assert (tmp_path / "2.png").read_bytes() == (tmp_path / "1.png").read_bytes()
    assert lb.encode(run, out=tmp_path / "z.npz", split="test", processes=2) == len(np.load(tmp_path / "z.npz")["z"])
    with pytest.raises(UserError, match="expected a file ending in"):
        lb.encode(run, out=tmp_path / "z.txt", processes=2)


@pytest.mark.slow  # starts Python five times
@pytest.mark.parametrize("by", ["torchrun", "--processes"])
def test_four_processes_by_the_command_line(by: str, tmp_path: Path):
    words = ["train", "vae", "train.steps=60", "train.batch=34", "--out", str(tmp_path / "run"), "--device", "cpu"]
    begin = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "-m", "lowerbound", *words]
    if by == "--processes":
        begin = [sys.executable, "-m", "lowerbound", *words, "--processes", "4"]
    environment = {k: v for k, v in os.environ.items() if k not in NEEDED} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(begin, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bits_per_dim") == 1
    right("train", *words[1:4], "--out", tmp_path / "one", "--device", "cpu")
    for one, four in zip(records(tmp_path / "one"), records(tmp_path / "run"), strict=True):
        assert one == {k: pytest.approx(v, rel=1e-5) if isinstance(v, float) else v for k, v in four.items()}
