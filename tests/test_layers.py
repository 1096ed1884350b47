"""Shared building blocks against torch's own."""

import pytest
import torch
from torch import nn

from xbuslib.models.layers import PatchConvTranspose2d


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("patch", [2, 16])
def test_patches_as_a_matrix_product_are_torchs_transposed_convolution(patch, layout):
    """Outputs and all three gradients, in float64; the parameters keep torch's names and shapes."""
    torch.manual_seed(0)
    ours = PatchConvTranspose2d(3, 5, patch).double().to(memory_format=layout)
    theirs = nn.ConvTranspose2d(3, 5, patch, stride=patch).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64).to(memory_format=layout)
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y_ours, y_theirs = ours(x_ours), theirs(x_theirs)
    weight = torch.randn_like(y_theirs)
    (y_ours * weight).sum().backward()
    (y_theirs * weight).sum().backward()
    torch.testing.assert_close(y_ours, y_theirs)
    assert y_ours.is_contiguous(memory_format=torch.channels_last)
    for one, other in [(x_ours, x_theirs), (ours.weight, theirs.weight), (ours.bias, theirs.bias)]:
        torch.testing.assert_close(one.grad, other.grad)
