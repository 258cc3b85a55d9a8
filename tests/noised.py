"""Runs with several levels of latents, and such as take noise away, hardly trained."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lowerbound import train
from lowerbound.runs.run import Run
from lowerbound.testing.base import shake_parameters

SHORT = ("train.steps=5", "train.valid_every=5", "train.batch=32")
UNET = {"type": "networks.unet.UNet", "widths": [8], "blocks": 1}


def layered(folder: Path, *words: str, label: bool = False) -> Run:
    """Digits, of three levels of latents."""
    scales = [{"factor": 8, "latent": 4, "blocks": 1}, {"factor": 2, "levels": 2, "latent": 2, "blocks": 1}]
    model = {"scales": scales, "width": 12, "inner": 6}
    return _trained("hvae-mnist", folder, model, f"data.label={str(label).lower()}", *words)


def noised(folder: Path, *words: str) -> Run:
    """Digits by their label, which some images were trained without; 12 steps."""
    model = {"network": UNET, "context": 8, "unconditional": 0.2, "sampler": {"steps": 12}}
    return _trained("diffusion-digits", folder, model, *(words or ("data.label=true",)))


def noised_latents(folder: Path) -> Run:
    """Digits as 2x4x4 latents, of which the prior is a diffusion model."""
    coder = {"type": "networks.mlp.MLP", "hidden": [32]}
    prior = {"network": UNET, "context": 8, "sampler": {"steps": 12}}
    model = {"latent": [2, 4, 4], "encoder": coder, "decoder": coder, "prior": prior}
    return _trained("latent-diffusion-lfw", folder, model, "train.stages.prior.steps=5", "data.size=null")


def _trained(recipe: str, folder: Path, model: dict[str, Any], *words: str) -> Run:
    """With noise on the weights, so that all that was hardly learnt has its effect."""
    run = train(recipe, *SHORT, "data.source=digits", *words, model=model, out=folder, device="cpu")
    trained = run.load("cpu")
    shake_parameters(trained, recipe, scale=0.1)
    save_file(trained.state_dict(), run.path / "model.safetensors")
    return run
