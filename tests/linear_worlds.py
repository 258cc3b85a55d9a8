"""The linear Gaussian world: probabilistic PCA, and the same model as a VAE whose encoder is the true posterior."""

import torch

from lowerbound.families import DiagonalNormal, FullNormal, SharedScaleNormal
from lowerbound.models.ppca import PPCA
from lowerbound.models.vae import VAE
from lowerbound.networks.mlp import MLP
from lowerbound.space import Space

LINEAR = MLP.Config(hidden=())


def ppca(D: int = 5, L: int = 2, seed: int = 0) -> PPCA:
    """Any linear Gaussian model: W is not what a fit would give, so that nothing is diagonal by luck."""
    generator = torch.Generator().manual_seed(seed)
    model = PPCA.Config(latent=L).build(Space((D,)))
    with torch.no_grad():
        model.weight.copy_(torch.randn(D, L, generator=generator))
        model.mean.copy_(torch.randn(D, generator=generator))
        model.log_scale.fill_(-0.4)
    return model


def linear_vae(truth: PPCA, posterior: FullNormal | DiagonalNormal) -> VAE:
    """The same model as a VAE, its encoder the true posterior, its parameters set by hand."""
    D, L = truth.space.dims, truth.config.latent
    config = VAE.Config(
        latent=(L,), posterior=posterior, likelihood=SharedScaleNormal(), encoder=LINEAR, decoder=LINEAR
    )
    vae = config.build(Space((D,)))
    W, mu, variance = truth.weight, truth.mean, (2 * truth.log_scale).exp()
    M = W.T @ W + variance * torch.eye(L)
    A = torch.linalg.solve(M, W.T)  # E[z|x] = A (x - mu)
    scale = torch.linalg.cholesky(variance * torch.linalg.inv(M))
    log_scale = scale.diagonal().log()
    parts = [-A @ mu, log_scale]
    if isinstance(posterior, FullNormal):
        unit = scale / scale.diagonal()[:, None]
        parts.append(torch.cat([unit[d, :d] for d in range(L)]))
    bias = torch.cat(parts)
    encoder, decoder = vae.encoder.layers[0], vae.decoder.layers[0]  # pyright: ignore
    with torch.no_grad():
        encoder.bias.copy_(bias)
        encoder.weight.zero_()
        encoder.weight[:L] = A
        decoder.weight.copy_(W)
        decoder.bias.copy_(mu)
        vae.likelihood_head.learned.fill_(truth.log_scale)  # pyright: ignore
    return vae


def rotated(model: PPCA) -> PPCA:
    """The same density with W turned so that the posterior is diagonal."""
    U, S, _ = torch.linalg.svd(model.weight, full_matrices=False)
    other = PPCA.Config(latent=model.config.latent).build(model.space)
    other.load_state_dict(model.state_dict() | {"weight": U * S})
    return other
