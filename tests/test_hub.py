"""Runs handed on through a hub: one that speaks the Hugging Face hub's interface, on the loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

import lowerbound as lb
from command import call, right, some_digits
from hub_server import READS, WRITES, Hub
from lowerbound.errors import ConfigError, RunError
from lowerbound.exporting.shared import save_pretrained
from lowerbound.runs.hub import Place

pytestmark = [
    pytest.mark.usefixtures("surroundings"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # of huggingface_hub, said of itself
]
NAME = "ann/digits"


@pytest.fixture(scope="module")
def trained(surroundings: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VAE of digits in an .npz, in a folder that says where it is, with a direction and an evaluation."""
    folder = tmp_path_factory.mktemp("home-of-ann")
    data = some_digits(folder / "own.npz")
    small = ("model.encoder.hidden=[8]", "model.decoder.hidden=[8]", "model.latent=3", "train.steps=20")
    right("train", "vae", "--out", folder / "run", "--data", data, *small)
    right("direction", folder / "run", "high", "--label", "1", "--data", data)
    right("evaluate", folder / "run", "--draws", "5")
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "home-of-ann" / "run"))


@pytest.fixture(scope="module")
def bundle(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the run as they are handed on."""
    return contents(save_pretrained(trained, tmp_path_factory.mktemp("bundle") / "digits"))


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub().serving() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, empty, as ann sees it from a machine that has fetched nothing yet."""
    server.forget()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", WRITES)
    new_machine(tmp_path / "machine", monkeypatch)
    return server


def new_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With empty caches."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fetched(hub: Hub) -> list[str]:
    """What came over the wire, of files."""
    return [said for said in hub.asked if said.startswith("GET /lfs/") or (said.startswith("GET") and "/resolve/" in said)]


def test_a_run_comes_back_bit_for_bit(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    report = right("push", run, NAME, "--json").json
    assert (report["name"], report["changed"], report["private"]) == (f"hf://{NAME}", True, False)
    assert report["url"] == f"{hub.url}/{NAME}"
    assert report["commit"] == hub.repositories[NAME].branches["main"]
    new_machine(tmp_path / "another", monkeypatch)
    monkeypatch.delenv("HF_TOKEN")  # it is public
    own, theirs = lb.load(run), lb.load(f"hf://{NAME}")
    assert own.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(w, theirs.state_dict()[name]) for name, w in own.state_dict().items())
    assert theirs.directions["high"].fresh
    right("sample", run, "-n", "4", "--seed", "3", "--out", tmp_path / "a.npz")
    done = right("sample", f"hf://{NAME}", "-n", "4", "--seed", "3", "--out", tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert "fetching" not in done.err  # once is enough
