"""Spectral normalization: a bound on how much a layer of a network stretches."""

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

LAYERS = nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding


def spectrally_normalized(network: nn.Module) -> nn.Module:
    """The network itself, each weight matrix of which is divided by its largest singular value, so that a layer is
    1-Lipschitz: Miyato et al. (2018), Spectral Normalization for GANs, https://arxiv.org/abs/1802.05957.

    The value is found by one step of the power method in every pass of training; the vectors of it are saved with the
    weights. A convolution's matrix is its kernel, [out, in · height · width], as in the paper. Weights that begin at
    zero, which has no direction, begin as others do.
    """
    for layer in [m for m in network.modules() if isinstance(m, LAYERS)]:
        if not layer.weight.any():
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5)
        spectral_norm(layer)
    return network
