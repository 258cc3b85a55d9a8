"""Autoregressive bijections: cheap one way, element by element the other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.devices import widened
from lowerbound.networks.made import MADE
from lowerbound.transforms.base import Bijection

GATE = 1.5  # what gates begin at, before the sigmoid
BOUND = 3.0  # how far they go from there: never so near zero that a step can't be undone in single precision


class GatedAutoregression(Bijection):
    r"""A step of inverse autoregressive flow (Kingma et al. 2016, https://arxiv.org/abs/1606.04934, algorithm 1).

    .. math:: z_d = \frac{\sigma(s_d) u_d + (1 - \sigma(s_d)) m_d}{\sigma(b)}, \qquad (s, m)_d = f_d(u_{<d}, c)

    f: a MADE with an order, or its reverse. s is b plus what is kept in (-3, 3), and b = 1.5. The constant σ(b) is what
    all scales begin at, so that the step begins as the identity: the base's scale could hold it as well.

    Forwards it is one pass; back it takes D.
    """

    def __init__(self, D: int, context: int, hidden: tuple[int, ...], reverse: bool):
        super().__init__()
        self.reverse = reverse
        config = MADE.Config(hidden=hidden, activation="tanh", direct=False)
        self.network = config.build((1, 1, D), (2, 1, D), context=context)
        last = [*self.network.out.parameters()]
        last += [] if self.network.given_out is None else [*self.network.given_out.parameters()]
        for p in last:
            nn.init.zeros_(p)

    def forward(self, x: Tensor, c: Tensor | None = None, inverse: bool = False) -> tuple[Tensor, Tensor]:
        x = x.flip(-1) if self.reverse else x
        x, log_gate = self._back(x, c) if inverse else self._forth(x, c)
        return x.flip(-1) if self.reverse else x, log_gate.sum(-1)

    def _forth(self, u: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, log_gate = self._parameters_of(u, c)
        return log_gate.exp() * u + shift, log_gate

    def _back(self, z: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        D, found, gates = z.shape[-1], z[:, :0], []
        for d in range(D):
            shift, log_gate = self._parameters_of(F.pad(found, (0, D - d)), c)
            u = (z[:, d] - shift[:, d]) * torch.exp(-log_gate[:, d])
            found = torch.cat([found, u.unsqueeze(-1)], -1)
            gates.append(log_gate[:, d])
        return found, torch.stack(gates, -1)

    def _parameters_of(self, u: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is added, and the logarithm of what is multiplied by: [B, D] each."""
        dtype = next(self.network.parameters()).dtype
        given = None if c is None else c.to(dtype)[:, :, None, None]
        h = widened(self.network(u.to(dtype)[:, None, None], given))[:, :, 0]  # [B, 2, D]
        s = GATE + BOUND * torch.tanh(h[:, 0] / BOUND)
        start = F.logsigmoid(s.new_tensor(GATE))
        return torch.sigmoid(-s) * h[:, 1] * torch.exp(-start), F.logsigmoid(s) - start
