"""Measure a run: likelihoods and their relation to the truth, reconstruction, use of the latents, samples."""

from dataclasses import dataclass
from typing import Annotated, Any

from lowerbound.metrics.report import evaluated
from lowerbound.runs.run import Run
from lowerbound.verbs import tables
from lowerbound.verbs.base import (
    WITH_HYPHEN,
    Device,
    File,
    Names,
    Option,
    Processes,
    Report,
    Seed,
    SomeWhole,
    Told,
    Whole,
    range_of_two,
    verb,
)


@dataclass(frozen=True, eq=False)
class Evaluation(Report):
    """What a run says of the images of a split. metrics: name -> value, stderr, unit, relation, n, draws."""

    run: str
    model: str
    seed: int
    version: str
    data: dict[str, Any]
    metrics: dict[str, dict[str, Any]]

    def shown(self) -> Any:
        return tables.metrics(self)


@verb
def evaluate(
    run: Run,
    /,
    *,
    data: str | None = None,
    split: str = "test",
    metrics: Names = None,
    draws: Whole = 500,
    limit: SomeWhole = None,
    samples: SomeWhole = None,
    extractor: File = None,
    extractor_size: SomeWhole = None,
    extractor_range: Annotated[tuple[float, float], Option(kind=str, parse=range_of_two), WITH_HYPHEN] = (0, 1),
    seeds: Whole = 1,
    sigma: float | None = None,
    temperatures: SomeWhole = None,
    chains: SomeWhole = None,
    refinement: SomeWhole = None,
    device: Device = "auto",
    seed: Seed = 0,
    progress: Told = False,
    processes: Processes = None,
) -> Evaluation:
    """Measure a run: likelihoods and their relation to the truth, reconstruction, use of the latents, samples.

    Args:
        data: measure on this data set; by default the run's own
        metrics: a,b: only these; of samples: frechet, kernel, precision, recall, cas; where nats are lost: gaps; a
            likelihood of samples with noise on them, as of a GAN: ais; of codes and known factors: mig, modularity,
            dci, sap, factor_vae, beta_vae, explicitness, infomec; the bytes of a file of the images: file_bits
        draws: importance-weighted draws for nll, bits_per_dim and gaps; at most 20 where they are only averaged
        limit: only the first so many images (gaps and ais: 100 by default, file_bits: 256)
        samples: drawn; by default as many as images, at most 5,000 (cas 10,000)
        extractor: a classifier's run, a TorchScript or ONNX file; by default principal components of pixels
        extractor_size: side in pixels of the images that a file's network takes
        extractor_range: LOW,HIGH: values of black and white that it takes
        seeds: classifiers of cas, each of samples of its own; more than one show what these bring to its error
        sigma: standard deviation of the noise that ais puts on what a model makes of z, a share of the range of pixels
        temperatures: of the annealing of gaps, by default 100, and of ais, by default 500
        chains: of the annealing of gaps and ais, for each image, by default 16
        refinement: steps by which gaps looks for the best posterior of each image, by default 500
        processes: measure in so many processes of this machine, which share the images

    Raises ConfigError for an unknown metric, ModelError for one that the model does not have.
    """
    options = {
        "draws": draws,
        "samples": samples,
        "extractor": extractor,
        "extractor_size": extractor_size,
        "extractor_range": extractor_range,
        "seeds": seeds,
        "sigma": sigma,
        "temperatures": temperatures,
        "chains": chains,
        "refinement": refinement,
    }
    report = evaluated(
        run,
        data=data,
        split=split,
        metrics=metrics,
        limit=limit,
        options=options,
        seed=seed,
        device=device,
        progress=progress,
    )
    return Evaluation(**report)
