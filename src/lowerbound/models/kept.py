"""A part of an image that is kept, as grids of codes see it, and codes that are drawn given those that stay."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lowerbound.errors import ModelError
from lowerbound.model import Draw, Model, Ordered, Told, rows_of, share_of
from lowerbound.noise import multinomial

Tuple = tuple[Tensor, ...]
PARTICLES = 32  # draws of the coarser codes for each image, where finer levels keep codes too


def cells_kept(kept: Tensor, size: tuple[int, ...]) -> Tensor:
    """Which cells of a grid of this size lie in what is kept as a whole, of pixels [H, W]: bool [h, w].

    Example:
        >>> top = torch.arange(8)[:, None].expand(8, 8) < 3
        >>> cells_kept(top, (4, 4)).any(1).tolist(), cells_kept(top, (2, 2)).any(1).tolist()
        ([True, False, False, False], [False, False])
    """
    h, w = size
    return kept.unflatten(0, (h, -1)).unflatten(2, (w, -1)).all(3).all(1)


def filled(x: Tensor, kept: Tensor) -> Tensor:
    """Images [B, C, H, W], each pixel that is not kept replaced by the nearest that is; the images, if none is kept."""
    if not bool(kept.any()):
        return x
    places = distance_transform_edt(~kept.cpu().numpy(), return_distances=False, return_indices=True)
    i, j = torch.as_tensor(places, device=x.device).long()
    return x[..., i, j]


class Part(NamedTuple):
    """The codes of a level, some of which are kept, and how the others are drawn."""

    prior: Model
    codes: Tensor  # [B, h, w]
    kept: Tensor  # bool [h, w]
    how: Draw
    told: Told

    def log_p(self, given: Tuple, K: int) -> Tensor:
        """log P of what is kept for K draws of what is given, [B * K, ...] each: [B, K]."""
        z = self.codes.repeat_interleave(K, 0)
        parts = torch.arange(len(z)).split(self.prior.rows)
        return torch.cat([self.prior.log_p_kept(z[i], self.kept, rows_of(given, i)) for i in parts]).view(-1, K)

    def drawn(self, given: Tuple, K: int) -> Tensor:
        """The codes [B * K, h, w] for K draws of what is given."""
        z, found = self.codes.repeat_interleave(K, 0), []
        for i in torch.arange(len(z)).split(self.prior.at_once()):
            told = share_of(self.told, i, len(z))
            found.append(self.prior.complete(z[i], self.kept, rows_of(given, i), self.how, told).x)
        return torch.cat(found)


def draw_rest(parts: Sequence[Part], y: Tuple, *, finest: bool = True) -> tuple[Tuple, Tensor]:
    r"""The codes of every level, the coarsest first, those drawn that are not kept.

    .. math:: z_l \sim P(z_l | z_{<l}, y, \mathrm{kept}_l), \quad w = P(\mathrm{kept}_{l+1} | z_{\le l}, y)

    Of each image `PARTICLES` draws of the coarser levels are made, of which those go on that are drawn by the weights
    w: sequential importance resampling (Gordon et al. 1993, https://doi.org/10.1049/ip-f-2.1993.0015). Where only the
    coarsest level keeps codes, the draws are those of P(z | kept, y), else they tend to it with more particles.

    Args:
        y: what the priors are given beside the coarser codes, [B, ...] each.
        finest: whether the codes of the last level are drawn.

    Returns the codes, [B, h, w] each, and an estimate of log P(kept | y) in nats, [B], whose exp is unbiased.
    """
    many = PARTICLES if any(bool(part.kept.any()) for part in parts[1:]) else 1
    given, K, log_p = y, 1, torch.zeros(len(parts[0].codes), dtype=torch.float64, device=parts[0].codes.device)
    for l, part in enumerate(parts):
        log_w = part.log_p(given, K)  # [B, K]
        log_p = log_p + torch.logsumexp(log_w, 1) - math.log(K)
        last = l + 1 == len(parts)
        if last and not finest:
            break
        K = 1 if last else many
        given = _chosen(given, log_w, K) if given else given
        given = (*given, part.drawn(given, K))
    return given[len(y) :], log_p


def redraw_cells(priors: Sequence[Model], codes: Tuple, drawn: Tuple, y: Tuple) -> Tuple:
    r"""Codes [B, h, w] of each level, the coarsest first: those at `drawn` [h, w] anew from the priors, given the rest.

    Of each image `PARTICLES` draws are made, each code given those before it alone, and one is chosen by what the
    others are worth then: importance resampling (Rubin 1987, The SIR algorithm, https://doi.org/10.2307/2289460).

    .. math:: w = \prod_{i\ \mathrm{kept}} P(z_i | z_{<i}, y)

    The more particles, the nearer to P(drawn | kept, y). Where nothing that is kept comes later, it is that.
    """
    given = tuple(part.repeat_interleave(PARTICLES, 0) for part in y)
    log_w = torch.zeros(len(codes[0]) * PARTICLES, dtype=torch.float64, device=codes[0].device)
    for prior, own, mask in zip(priors, codes, drawn, strict=True):
        if not isinstance(prior, Ordered):
            raise ModelError(f"{type(prior).__name__} does not draw codes one after another, so none can be drawn anew")
        z = own.repeat_interleave(PARTICLES, 0)
        for passed in prior.filling(z, mask, given):
            z = passed.x
        if not bool(mask.all()):
            parts = torch.arange(len(z)).split(prior.rows)
            log_p = torch.cat([prior.log_probs(z[i], rows_of(given, i)) for i in parts])
            log_w = log_w + log_p[:, ~mask].double().sum(1)
        given = (*given, z)
    return _chosen(given[len(y) :], log_w.view(-1, PARTICLES), 1)


def _chosen(each: Tuple, log_w: Tensor, K: int) -> Tuple:
    """K of the draws [B * k, ...] of each image by their weights log_w [B, k], with replacement: [B * K, ...] of all
    parts of a draw."""
    B, k = log_w.shape
    places = (multinomial(log_w.softmax(1), K) + k * torch.arange(B, device=log_w.device)[:, None]).flatten()
    return tuple(part[places] for part in each)
