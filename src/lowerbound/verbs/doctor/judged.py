"""What is wrong, told from numbers alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ERRORS = 4.0  # standard errors beyond which a difference is none of chance
SKIPPED = 0.02  # of the steps; the guard leaves out a few in any training
STILL = 0.01  # of the validation score, gained over the last fifth of the steps
STILL_OF_ALL = 0.05  # of all that was gained since the first validation; a finished training gains 0.02 at most
PAST_BEST = 0.05  # of the best validation score, lost until the end
FEW_LEVELS = 1 / 8  # of the levels: photographs and drawings in grey have more than half of them
CONSTANT = 0.01  # of the images
RARE = 0.1  # images of the rarest class for one of the commonest
GAP = 0.1  # of log p(x) of the training images; MADE on MNIST has 0.07 and is at its best
GAP_EXPLAINED = 0.1  # of the variance of the data
GAP_ACCURACY = 0.1
COLLAPSED = 0.1  # nats in all of z
ACTIVE = 0.01  # nats in a dimension; or the variance of its posterior mean, Burda et al. (2016), section 5.2
ACTIVE_POINT = 1e-4  # variance of a dimension of a code without a scale of its own, for one of the widest
UNUSED = 0.25  # of the dimensions in use: a VAE that chose half of them by itself is healthy
AT_BOUND = 0.01  # of the log-scales
ALIKE = 0.01  # variance between the reconstructions, for one of the data
DECIBELS = 1.0  # by which reconstructions are to be nearer than the mean image
DETAIL = 0.1  # squared differences of neighbouring pixels, for one of the data; 2 latents for MNIST keep 0.2
SHIFT = 0.25  # squared distance of the mean images, for one of the variance of the data
SPREAD = (0.5, 2.0)  # squared distance of samples from the mean image, for one of the data
FEWEST_SAMPLES = 9
DEAD_UNITS = 0.5  # of a layer
USAGE = 0.8  # of the codes
TOO_MANY = 0.5  # of the codes: below, there are more than the data ask for
SEEN = 20  # positions for one code, below which a rare code may not have come yet
PERPLEXITY = 0.3  # for one of the codes
IGNORED = 1.01  # the error without a level, for one of the error with it
UNIGRAM = 0.95  # bits per code, for one of the entropy of single codes
GAP_BITS = 0.05  # of the bits per code of the training images
EXPLAINED = 0.5  # of the variance of the data that codes keep, below which an autoencoder has not learnt its work


class Check(NamedTuple):
    """One thing that was looked at: a number, the bound it is held to, and whether it is wrong."""

    name: str  # part.what
    value: float
    threshold: float
    wrong: bool
    severity: str  # problem: the run does not do its work; advice: it could do better
    message: str  # what was found, and why it matters
    remedy: str  # a command, or KEY=VALUE to train with


@dataclass(frozen=True)
class Trained:
    """One stage of a training, from its state and its log."""

    stage: str
    step: int
    steps: int  # that were asked for
    finished: bool
    skipped: float  # steps left out for the size of their gradient
    scores: tuple[tuple[int, float], ...]  # (step, what validation holds to be better when higher)
    resume: str  # the command that goes on
    longer: str  # KEY=VALUE of a training twice as long
    calmer: str  # KEY=VALUE of one with smaller steps

    def checks(self) -> list[Check]:
        found = [self._unfinished(), self._skipped()]
        if self.finished and len(self.scores) > 1:
            found += [*self._still_improving(), self._past_its_best()]
        return found

    def _named(self, what: str) -> str:
        return f"training.{self.stage}.{what}"

    def _unfinished(self) -> Check:
        return Check(
            self._named("unfinished"),
            self.step,
            self.steps,
            not self.finished,
            "problem",
            f"stage {self.stage} is at step {self.step:,} of {self.steps:,}: stopped, or broken off by a loss that was "
            "not finite, and what its weights say is not the model's last word",
            f"{self.resume}  (after a loss that was not finite: {self.calmer})",
        )

    def _skipped(self) -> Check:
        share = self.skipped / max(1, self.step)
        return Check(
            self._named("skipped"),
            share,
            SKIPPED,
            share > SKIPPED,
            "problem",
            f"{share:.1%} of the steps of stage {self.stage} were left out, since their gradients exploded",
            self.calmer,
        )

    def _still_improving(self) -> list[Check]:
        """The gain over the last fifth; nothing where there are fewer than two validations in it."""
        steps, scores = np.array(self.scores).T
        late = 0.8 * steps[-1]
        if (steps >= late).sum() < 2:
            return []
        gain = float(scores[-1] - np.interp(late, steps, scores))
        share = gain / max(abs(float(scores[-1])), 1e-12)
        wrong = share > STILL and gain > STILL_OF_ALL * float(scores[-1] - scores[0])
        return [
            Check(
                self._named("still_improving"),
                share,
                STILL,
                wrong,
                "advice",
                f"the validation score of stage {self.stage} rose by {share:.1%} over the last fifth of the steps: it "
                "was stopped while it still learnt",
                f"{self.resume} {self.longer}",
            )
        ]

    def _past_its_best(self) -> Check:
        scores = [score for _, score in self.scores]
        lost = (max(scores) - scores[-1]) / max(abs(max(scores)), 1e-12)
        at = self.scores[int(np.argmax(scores))][0]
        return Check(
            self._named("past_its_best"),
            lost,
            PAST_BEST,
            lost > PAST_BEST,
            "advice",
            f"stage {self.stage} was best on the validation images at step {at:,} of {self.step:,}, and these weights "
            f"are kept; the score was {lost:.1%} worse at the end: it learnt the training images by heart",
            "train.patience=3, or more images, data.flip=true, a smaller network, or "
            "train.optimizer=optimization.AdamW train.optimizer.weight_decay=0.3",
        )


@dataclass(frozen=True)
class Pixels:
    """What the training images hold, before they are binarized."""

    values: tuple[int, ...]  # all that occur
    levels: int
    binarized: bool  # whether values are probabilities of binary draws
    constant: float  # share of the images with a single value
    counts: tuple[int, ...] | None  # images of each class, where the model learns or is given it
    source: str

    def checks(self) -> list[Check]:
        found = [self._levels(), self._constant()]
        return found if self.counts is None else [*found, self._classes(self.counts)]

    def _levels(self) -> Check:
        few = max(2.0, FEW_LEVELS * self.levels)
        harmless = self.binarized and len(self.values) > 1 and self.values[-1] == self.levels - 1
        shown = ", ".join(map(str, self.values[:4])) + (", …" if len(self.values) > 4 else "")
        return Check(
            "data.levels",
            len(self.values),
            few,
            len(self.values) < few and not harmless,
            "problem",
            f"pixels take {len(self.values)} of {self.levels} values ({shown}): the model spends its likelihood on "
            "values that never come, and sees a small part of its range",
            self._other_levels(),
        )

    def _other_levels(self) -> str:
        values, top = self.values, self.values[-1]
        if len(values) < 2:
            return f"other images: lowerbound data show {self.source}"
        if top < FEW_LEVELS * self.levels:
            return f"data.levels={top + 1}"
        step = math.gcd(*values)
        return f"an .npz with x // {step} and levels={top // step + 1}"

    def _constant(self) -> Check:
        return Check(
            "data.constant_images",
            self.constant,
            CONSTANT,
            self.constant > CONSTANT,
            "advice",
            f"{self.constant:.1%} of the training images have the same value everywhere: there is nothing to see in "
            "them",
            f"lowerbound data show {self.source}, and leave such images out",
        )

    def _classes(self, counts: tuple[int, ...]) -> Check:
        share = min(counts) / max(1, *counts)
        return Check(
            "data.classes",
            share,
            RARE,
            share < RARE,
            "advice",
            f"the rarest class has {min(counts):,} training images, the commonest {max(counts):,}: little is learnt of "
            "the rare ones",
            f"lowerbound data show {self.source}; more images of the rare classes, or fewer classes",
        )


@dataclass(frozen=True)
class Likelihoods:
    """log p(x), or one draw of its bound, of images one by one, in nats: [n]."""

    train: np.ndarray
    valid: np.ndarray
    histograms: np.ndarray  # of the validation images, by a histogram of each pixel of the training images
    dequantized: bool  # whether a density over real numbers stands for the values

    def checks(self) -> list[Check]:
        broken = int((~np.isfinite(np.concatenate([self.train, self.valid]))).sum())
        finite = Check(
            "likelihood.not_finite",
            broken,
            0,
            broken > 0,
            "problem",
            f"{broken} of {len(self.train) + len(self.valid)} images have a likelihood that is not finite",
            "a smaller train.optimizer.lr, or train.clip=10",
        )
        return [finite] if broken else [finite, self._histograms(), self._overfitted()]

    def _histograms(self) -> Check:
        better = self.valid - self.histograms
        value, error = float(better.mean()), _stderr(better)
        return Check(
            "likelihood.below_histograms",
            value,
            0,
            value < -ERRORS * error,
            "advice" if self.dequantized else "problem",
            f"a histogram of each pixel, which knows nothing of its neighbours, gives the validation images "
            f"{-value:.4g} nats more: "
            + (
                "a density over real numbers can't sit on single values"
                if self.dequantized
                else "the model has learnt next to nothing"
            ),
            "model.likelihood=families.DiscretizedNormal, or the like over whole values"
            if self.dequantized
            else "a smaller train.optimizer.lr, a longer training",
        )

    def _overfitted(self) -> Check:
        gap, sure = _difference(self.train, self.valid)
        share = gap / max(abs(float(self.train.mean())), 1e-12)
        return Check(
            "likelihood.overfitted",
            share,
            GAP,
            sure and share > GAP,
            "problem",
            f"training images are likelier than validation images by {gap:.4g} nats, {share:.0%}: the model knows them "
            "by heart",
            "more images, data.flip=true, a smaller network, or train.optimizer=optimization.AdamW "
            "train.optimizer.weight_decay=0.3",
        )


@dataclass(frozen=True)
class Latents:
    """What z holds of the validation images."""

    kl: float | None  # of all of z, nats per image; None: the posterior is a point
    each: np.ndarray | None  # [D], the mean KL of each dimension in nats, where it is a sum of them
    variance: np.ndarray  # [D], of the posterior means over the images
    at_bound: float  # share of the posterior's log-scales at the ends of their range
    loosen: str  # KEY=VALUE that lets the latents keep more

    @property
    def used(self) -> int:
        """Dimensions that tell images apart."""
        if self.each is not None:
            return int((self.each > ACTIVE).sum())
        bound = ACTIVE_POINT * self.variance.max() if self.kl is None else ACTIVE
        return int((self.variance > bound).sum())

    def checks(self) -> list[Check]:
        if self.kl is None:
            return [self._unused(False)]
        collapsed = Check(
            "latents.collapsed",
            self.kl,
            COLLAPSED,
            self.kl < COLLAPSED,
            "problem",
            f"z holds {self.kl:.2g} nats of an image: the posterior has collapsed onto the prior, the decoder does "
            "without z, and codes and edits mean nothing",
            self.loosen,
        )
        return [collapsed, self._unused(collapsed.wrong), self._at_bound()]

    def _unused(self, collapsed: bool) -> Check:
        share = self.used / len(self.variance)
        return Check(
            "latents.unused",
            share,
            UNUSED,
            share < UNUSED and not collapsed,
            "advice",
            f"{self.used} of {len(self.variance)} dimensions of z tell images apart; the others cost time and are "
            "noise to whoever uses the codes",
            f"model.latent={max(1, math.ceil(1.25 * self.used))}, or to use more of them {self.loosen}",
        )

    def _at_bound(self) -> Check:
        return Check(
            "latents.scales_at_bound",
            self.at_bound,
            AT_BOUND,
            self.at_bound > AT_BOUND,
            "problem",
            f"{self.at_bound:.1%} of the posterior's log-scales are at the end of their range: the noise of z has "
            "vanished or exploded, and samples of the prior look like nothing",
            "model.objective=objectives.ELBO (for an autoencoder: model.posterior=families.Point), a smaller "
            "train.optimizer.lr",
        )


@dataclass(frozen=True)
class Reconstructed:
    """How images come back from their codes. Errors are squared, for one of the variance of the data."""

    train: np.ndarray  # [n], the error of each training image
    valid: np.ndarray
    variety: float  # variance between the reconstructions, for one of the data
    detail: float  # squared differences of neighbouring pixels, for one of the data

    def checks(self) -> list[Check]:
        better = -10 * math.log10(max(float(self.valid.mean()), 1e-12))
        alike, near = self.variety < ALIKE, better < DECIBELS
        gap, sure = _difference(self.valid, self.train)
        more = "a larger model.latent, a wider network, model.objective.beta=1, a longer training"
        return [
            Check(
                "reconstructions.alike",
                self.variety,
                ALIKE,
                alike,
                "problem",
                f"all images come back as the same picture: reconstructions vary by {self.variety:.2%} of the variance "
                "of the images",
                more,
            ),
            Check(
                "reconstructions.mean_image",
                better,
                DECIBELS,
                near and not alike,
                "problem",
                f"reconstructions are {better:.2f} dB nearer to the images than the mean image is, which takes no code",
                more,
            ),
            Check(
                "reconstructions.blurry",
                self.detail,
                DETAIL,
                self.detail < DETAIL and not near and not alike,
                "advice",
                f"reconstructions have {self.detail:.1%} of the images' contrast between neighbouring pixels",
                more,
            ),
            Check(
                "reconstructions.overfitted",
                gap,
                GAP_EXPLAINED,
                sure and gap > GAP_EXPLAINED,
                "advice",
                f"validation images come back worse than training images, by {gap:.0%} of the variance: the networks "
                "know these by heart",
                "more images, data.flip=true, a smaller network, or train.optimizer=optimization.AdamW "
                "train.optimizer.weight_decay=0.3",
            ),
        ]


@dataclass(frozen=True)
class Drawn:
    """Samples beside the training images, in squared distances for one of the variance of the data."""

    shift: float  # of the mean image of the samples from that of the data
    distances: np.ndarray  # [n], of each sample from the mean image of the data
    remedy: str

    def checks(self) -> list[Check]:
        n = len(self.distances)
        if n < FEWEST_SAMPLES:
            return []
        spread, error, bound = float(self.distances.mean()), _stderr(self.distances), SHIFT + ERRORS / n
        low, high = SPREAD
        outside = spread + ERRORS * error < low or spread - ERRORS * error > high
        return [
            Check(
                "samples.mean",
                self.shift,
                bound,
                self.shift > bound,
                "problem",
                f"the mean of {n} samples is far from that of the images: {self.shift:.2g} of their variance",
                self.remedy,
            ),
            Check(
                "samples.spread",
                spread,
                low if spread < 1 else high,
                outside,
                "problem",
                f"{n} samples vary {spread:.2g} times as much around the mean image as images do",
                self.remedy,
            ),
        ]


@dataclass(frozen=True)
class Labelled:
    """Whether the labels that a classifier gives are right: bool [n]."""

    train: np.ndarray
    valid: np.ndarray
    commonest: float  # the share of the validation images that have the commonest label

    def checks(self) -> list[Check]:
        right = float(self.valid.mean())
        gap, sure = _difference(self.train.astype(float), self.valid.astype(float))
        return [
            Check(
                "labels.guessed",
                right,
                self.commonest,
                right - self.commonest < ERRORS * _stderr(self.valid.astype(float)),
                "problem",
                f"{right:.1%} of the labels are right; always saying the commonest one has {self.commonest:.1%}",
                "a longer training, a smaller train.optimizer.lr; are the labels right? lowerbound data show",
            ),
            Check(
                "labels.overfitted",
                gap,
                GAP_ACCURACY,
                sure and gap > GAP_ACCURACY,
                "advice",
                f"{gap:.1%} more of the labels are right for training images than for validation images",
                "more images, data.flip=true, a smaller network, or train.optimizer=optimization.AdamW "
                "train.optimizer.weight_decay=0.3",
            ),
        ]


@dataclass(frozen=True)
class Rectifiers:
    """Layers of rectified linear units -> the share of their units that are 0 for every validation image."""

    dead: Mapping[str, float]

    def checks(self) -> list[Check]:
        if not self.dead:
            return []
        layer = max(self.dead, key=lambda name: self.dead[name])
        share = self.dead[layer]
        return [
            Check(
                "networks.dead_units",
                share,
                DEAD_UNITS,
                share > DEAD_UNITS,
                "advice",
                f"{share:.0%} of the units of {layer} are 0 for every image, and learn no more",
                "a smaller train.optimizer.lr, train.schedule.warmup=500, or activation=silu where the network has it",
            )
        ]


# ---- models over codes, stage by stage


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
            found += self._quantizer(level)
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

    def _quantizer(self, c: Codes) -> list[Check]:
        part, wide, quantizer = f"codes.{c.level}", c.seen >= SEEN * c.size, f"model.levels.{c.place}.quantizer"
        spare = c.usage < TOO_MANY
        fewer = 2 ** max(1, math.ceil(math.log2(max(2.0, c.perplexity))))
        worse = c.without / max(self.error, 1e-12)
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
        share = c.bits / max(c.unigram, 1e-12)
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
        wide = gap / max(c.train_bits, 1e-12)
        return [
            *found,
            Check(
                f"{part}.overfitted",
                wide,
                GAP_BITS,
                wide > GAP_BITS and gap > ERRORS * c.bits_stderr,
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


def _stderr(each: np.ndarray) -> float:
    """The standard error of a mean; infinite for a single number."""
    return float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.inf


def _difference(a: np.ndarray, b: np.ndarray) -> tuple[float, bool]:
    """The difference of the means of two sets of images, and whether it is beyond ERRORS standard errors."""
    gap = float(a.mean() - b.mean())
    return gap, gap > ERRORS * math.hypot(_stderr(a), _stderr(b))
