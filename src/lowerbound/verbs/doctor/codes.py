"""A model over codes, stage by stage: the autoencoder, the codebook and the prior of each level, the samples."""

import math
from dataclasses import dataclass

import numpy as np

from lowerbound.model import CodeModel, Draw
from lowerbound.noise import seeded
from lowerbound.quantizers import Usage
from lowerbound.sampling import drawing
from lowerbound.verbs.doctor.check import ERRORS, Check
from lowerbound.verbs.doctor.encoded import Encoded, frechets, means, shuffled_places
from lowerbound.verbs.doctor.evidence import SHOWN, Bars, Evidence, Pictures, Shows, some
from lowerbound.verbs.doctor.examined import Examined, distances

EXPLAINED = 0.5  # of the variance of the data that codes keep, below which an autoencoder has not learnt its work
USAGE = 0.8  # of the codes
TOO_MANY = 0.5  # of the codes: below, there are more than the data ask for
SEEN = 20  # positions for one code, below which a rare code may not have come yet
PERPLEXITY = 0.3  # for one of the codes
IGNORED = 1.01  # the error without a level, for one of the error with it
UNIGRAM = 0.95  # bits per code, for one of the entropy of single codes
GAP = 0.05  # of the bits per code of the training images
LEAST_BITS = 0.01  # per code: of less than that no share is taken, for a level whose codes say nothing
LEAST_ERROR = 1e-3  # likewise, of the squared error of an image


def checks(e: Examined) -> list[Check]:
    model = e.model
    if not isinstance(model, CodeModel):
        return []
    valid, train = (Encoded.of(model, e.in_order(batches)) for batches in (e.valid, e.train))
    levels = tuple(_level(model, l, train, valid) for l in range(len(model.levels)))
    error = valid.error(model, valid.codes)
    variance = float(distances(valid.x, valid.x.mean(0)).mean())
    found = Stages(levels, error, 1 - error / max(variance, 1e-12), **frechets(model, train, valid)).checks()
    return [check._replace(shows=_shows(check.name, model, valid, levels)) for check in found]


def _shows(name: str, model: CodeModel, valid: Encoded, levels: "tuple[Codes, ...]") -> Shows:
    """What is to be seen of a check of this name: codes.LEVEL.dead."""
    part, _, what = name.rpartition(".")
    c = next((c for c in levels if part in (f"codes.{c.level}", f"prior.{c.level}")), None)
    if c is not None and part.startswith("prior."):
        named = {"uniform": math.log2(c.size), "frequencies": c.unigram, "validation": c.bits, "training": c.train_bits}
        known = {k: v for k, v in named.items() if v is not None}
        return lambda: [Bars(f"bits for a code of level {c.level}", [*known], np.array([*known.values()]))]
    if c is not None and what != "ignored":
        usage = Usage(c.size)
        usage.add(valid.codes[c.place])
        counts = usage.counts.sort(descending=True).values.numpy()
        title = f"how often each code of level {c.level} occurs, the commonest first"
        return lambda: [Bars(title, [str(k + 1) for k in range(c.size)], counts)]

    def rows() -> list[Evidence]:
        few = tuple(codes[:SHOWN] for codes in valid.codes)
        drawn: dict[str, np.ndarray] = {"original": some(valid.x), "reconstruction": means(model, few)}
        for l, level in enumerate(levels if c is not None or name == "samples.below_shuffled" else ()):
            if c in (None, level):
                codes = tuple(shuffled_places(valid.codes[l], len(z)) if k == l else z for k, z in enumerate(few))
                drawn[f"{level.level} shuffled"] = means(model, codes)
        if name == "samples.below_shuffled":
            with seeded(0, "doctor", quick=True):
                y = None if valid.y is None else valid.y[:SHOWN]
                drawn["samples"] = drawing.pixels(drawing.draw(model, SHOWN, y, Draw(mean=True)).x)
        return [Pictures("validation images, and what codes decode to", drawn, model.space.levels or 256)]

    return rows


def _level(model: CodeModel, l: int, train: Encoded, valid: Encoded) -> "Codes":
    usage = Usage(model.latents[l].levels or 1)
    usage.add(valid.codes[l])
    bits, train_bits = valid.bits[l], train.bits[l]  # [n]
    learned = model.learned[l]
    return Codes(
        level=model.levels[l],
        place=l,
        size=len(usage.counts),
        seen=valid.codes[l].numel(),
        usage=usage.share,
        perplexity=usage.perplexity,
        without=valid.error_without(model, l),
        unigram=usage.bits,
        bits=float(bits.mean()) if learned else None,
        train_bits=float(train_bits.mean()) if learned else None,
        bits_stderr=float((bits.var() / len(bits) + train_bits.var() / len(train_bits)).sqrt()),
    )


@dataclass(frozen=True)
class Codes:
    """One level of codes of the validation images, and the prior over it. Bits are per code."""

    level: str  # its name, such as top
    place: int  # among the levels, 0 the coarsest
    size: int  # K
    seen: int  # positions looked at
    usage: float  # share of the K codes that occur
    perplexity: float  # exp of the entropy of single codes
    without: float  # the squared error of reconstructions from codes whose places in this level are shuffled
    unigram: float  # entropy of single codes
    bits: float | None = None  # under the prior; None: it is uniform, or not trained yet
    train_bits: float | None = None
    bits_stderr: float = 0.0  # of bits - train_bits


@dataclass(frozen=True)
class Stages:
    """A model that is an autoencoder with codes first, and then a prior over the codes of each level."""

    codes: tuple[Codes, ...]
    error: float  # squared error of the reconstructions, in the unit of `Codes.without`
    explained: float  # share of the variance of the images that the reconstructions keep
    # squared Fréchet distances to the validation images, where the prior is trained:
    samples: float | None = None
    shuffled: float | None = None  # of pictures decoded from codes that are each drawn from another image
    floor: float | None = None  # of as many training images

    def checks(self) -> list[Check]:
        found = [self._autoencoder()]
        for level in self.codes:
            found += self._codebook(level)
            found += self._prior(level)
        return [*found, *self._samples()]

    def _autoencoder(self) -> Check:
        return Check(
            "autoencoder.blurry",
            self.explained,
            EXPLAINED,
            self.explained < EXPLAINED,
            "problem",
            f"reconstructions keep {self.explained:.0%} of the variance of the images: no prior can make its samples "
            "better than these",
            "another level, a larger model.levels.0.quantizer.codes, a longer training of the stage autoencoder",
        )

    def _codebook(self, c: Codes) -> list[Check]:
        part, wide, quantizer = f"codes.{c.level}", c.seen >= SEEN * c.size, f"model.levels.{c.place}.quantizer"
        spare = c.usage < TOO_MANY
        fewer = 2 ** max(1, math.ceil(math.log2(max(2.0, c.perplexity))))
        worse = c.without / max(self.error, LEAST_ERROR)
        found = [
            Check(
                f"{part}.ignored",
                worse,
                IGNORED,
                len(self.codes) > 1 and worse < IGNORED,
                "problem",
                f"reconstructions are as good with the codes of level {c.level} shuffled (an error {worse:.3f} times "
                "as large): the decoder does without them, and their prior models noise",
                "fewer levels, fewer codes at the others, or model.drop=0.2",
            )
        ]
        if not wide:
            return found
        return [
            *found,
            Check(
                f"{part}.dead",
                c.usage,
                USAGE,
                TOO_MANY <= c.usage < USAGE,
                "advice",
                f"{c.usage:.0%} of the {c.size} codes of level {c.level} occur; the others are dead",
                f"{quantizer}.revive=0.1 {quantizer}.initial=3",
            ),
            Check(
                f"{part}.too_many",
                c.usage,
                TOO_MANY,
                spare,
                "problem",
                f"{c.usage:.0%} of the {c.size} codes of level {c.level} occur: the codebook has collapsed, or is "
                "larger than the data ask for",
                f"{quantizer}.revive=0.1 {quantizer}.initial=3, or {quantizer}.codes={fewer}",
            ),
            Check(
                f"{part}.perplexity",
                c.perplexity / c.size,
                PERPLEXITY,
                c.perplexity < PERPLEXITY * c.size and not spare,
                "advice",
                f"the codes of level {c.level} are used like {c.perplexity:.0f} equally frequent ones, of {c.size}",
                f"{quantizer}.codes={fewer}, or {quantizer}.revive=0.1",
            ),
        ]

    def _prior(self, c: Codes) -> list[Check]:
        if c.bits is None:
            return []
        part, uniform = f"prior.{c.level}", math.log2(c.size)
        broken = c.bits > uniform
        share = c.bits / max(c.unigram, LEAST_BITS)
        found = [
            Check(
                f"{part}.broken",
                c.bits,
                uniform,
                broken,
                "problem",
                f"the prior of level {c.level} takes {c.bits:.3f} bits for a code, and a uniform one {uniform:.3f}",
                f"train the stage prior.{c.level} anew, with a smaller train.optimizer.lr",
            ),
            Check(
                f"{part}.untrained",
                share,
                UNIGRAM,
                share > UNIGRAM and not broken,
                "advice",
                f"the prior of level {c.level} takes {c.bits:.3f} bits for a code, and the frequencies of single codes "
                f"{c.unigram:.3f}: it has learnt little of how codes lie together",
                f"a longer training of the stage prior.{c.level}, or a larger network",
            ),
        ]
        if c.train_bits is None:
            return found
        gap = c.bits - c.train_bits
        wide = gap / max(c.train_bits, LEAST_BITS)
        return [
            *found,
            Check(
                f"{part}.overfitted",
                wide,
                GAP,
                wide > GAP and gap > ERRORS * c.bits_stderr,
                "advice",
                f"the prior of level {c.level} takes {gap:.3f} bits more for a code of validation images than of "
                f"training images, {wide:.0%}: it knows these by heart",
                "more images, a smaller network or dropout in the prior, train.patience=3",
            ),
        ]

    def _samples(self) -> list[Check]:
        if self.samples is None or self.shuffled is None or self.floor is None:
            return []
        return [
            Check(
                "samples.below_shuffled",
                self.samples,
                self.shuffled,
                self.samples > self.shuffled,
                "problem",
                f"samples are farther from the images (Fréchet distance {self.samples:.4g}) than pictures of codes "
                f"that are each taken from another image ({self.shuffled:.4g}; of real images: {self.floor:.4g}): the "
                "priors do not say how codes lie together",
                "train the priors longer; sample with --temperature 1",
            )
        ]
