"""The KAN linear layer: a learned cubic spline on every edge, one fixed knot grid; specs/baselines.md 3.3."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The values of U-KAN's code; grid update and regulariser exist there but are not used.
ORDER = 3  # cubic
INTERVALS = 5  # equal intervals on [-1, 1]
SPACING = 2 / INTERVALS  # 0.4; with three more knots on each side the knots run from -2.2 to 2.2
BASES = INTERVALS + ORDER  # 8 basis functions
NOISE = 0.1  # range of the initial spline values, before division by INTERVALS


def spline_basis(x: Tensor) -> Tensor:
    """(…) to (…, 8): the B-spline basis by Cox–de Boor, in float32 whatever the input's precision.

    On equal knots, with x in units of their spacing from the first one,
    B_{i,p}(u) = ((u − i)·B_{i,p−1}(u) + (i + p + 1 − u)·B_{i+1,p−1}(u))/p.
    The eight functions add up to one on [-1, 1] and vanish outside [-2.2, 2.2].
    """
    u = (x.float() + 1) / SPACING + ORDER  # knot i is at u = i
    ahead = u[..., None] - torch.arange(BASES + ORDER, device=x.device)  # (…, 11), u − i for each interval
    basis = ((ahead >= 0) & (ahead < 1)).float()  # order 0: which interval, closed on the left
    for p in range(1, ORDER + 1):
        ahead = ahead[..., :-1]  # one function fewer at each order
        basis = (ahead * basis[..., :-1] + (p + 1 - ahead) * basis[..., 1:]) / p
    return basis


class KANLinear(nn.Module):
    """W_base·SiLU(x) + Σ_{features, bases} (W_spline·s)·B(x) of the last axis; no bias, 10·out·in weights."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.base = nn.Parameter(torch.empty(outputs, inputs))
        self.scale = nn.Parameter(torch.empty(outputs, inputs))  # s
        self.spline = nn.Parameter(self._fit_noise(inputs, outputs))
        for weight in (self.base, self.scale):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # U(±1/√inputs)

    @staticmethod
    def _fit_noise(inputs: int, outputs: int) -> Tensor:
        """(out, in, 8) coefficients, of least norm, of curves through noise at the six inner knots."""
        noise = (torch.rand(outputs, inputs, INTERVALS + 1) - 0.5) * NOISE / INTERVALS
        basis = spline_basis(torch.linspace(-1, 1, INTERVALS + 1))  # (6, 8)
        return noise @ torch.linalg.pinv(basis).T  # (out, in, 6) · (6, 8)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        weight = (self.spline * self.scale[..., None]).flatten(1)  # (out, in, 8) to (out, in·8)
        curves = spline_basis(x).flatten(-2)  # (…, in, 8) to (…, in·8)
        return F.linear(F.silu(x), self.base) + F.linear(curves, weight)
