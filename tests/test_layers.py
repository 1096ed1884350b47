"""Layers done in another way, against torch's own."""

import pytest
import torch
from torch import nn

from xbuslib.models.layers import UpBlock
from xbuslib.models.layers_cpu import WIDE, Conv3x3, Dropout, GroupNorm, PatchConvTranspose2d


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_a_wide_convolution_of_bfloat16_maps_has_the_gradients_of_float64(layout):
    """Maps of unequal sides, each pixel seen through all nine places of the kernel or cut off by the edge."""
    torch.manual_seed(0)
    ours = Conv3x3(WIDE, 16).to(memory_format=layout)
    theirs = nn.Conv2d(WIDE, 16, 3, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, WIDE, 4, 6).bfloat16().to(memory_format=layout).requires_grad_()
    exact, grad = x.detach().double().requires_grad_(), torch.randn(2, 16, 4, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(x)
    assert out.dtype == torch.bfloat16 and type(out.grad_fn).__name__ == "ConvGradientBackward"
    out.backward(grad)
    expected = theirs(exact)
    expected.backward(grad.double())
    for one, other in [(out, expected), (x.grad, exact.grad), (ours.weight.grad, theirs.weight.grad),
                       (ours.bias.grad, theirs.bias.grad)]:
        error = (one.double() - other).norm() / other.norm()
        assert error < 0.004, error


def test_a_decoder_step_takes_its_own_gradient_where_it_is_wide():
    """In bfloat16 alone: in float32, and in narrow layers, the convolution and its gradient are torch's."""
    step, kinds = UpBlock(8, WIDE - 8, 8), []
    step.conv[0].register_forward_hook(lambda *call: kinds.append(type(call[-1].grad_fn).__name__))
    step.conv[3].register_forward_hook(lambda *call: kinds.append(type(call[-1].grad_fn).__name__))
    maps = torch.randn(2, 8, 3, 3), torch.randn(2, WIDE - 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        step(maps[0], maps[1].bfloat16())  # the skip comes from an encoder under autocast
    step(*maps)
    assert kinds == ["ConvGradientBackward", *["ConvolutionBackward0"] * 3]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_group_normalisation_of_bfloat16_maps_has_the_gradients_of_float64(layout):
    """Off the centre, with a gradient of its own mean in each channel; bfloat16 rounds by up to 0.4 %."""
    torch.manual_seed(0)
    ours, theirs = GroupNorm(4, 16), nn.GroupNorm(4, 16).double()
    for parameter, same in zip(ours.parameters(), theirs.parameters(), strict=True):
        same.data.copy_(parameter.data.normal_())
    x = (torch.randn(3, 16, 24, 20) + 2 * torch.randn(16, 1, 1)).bfloat16().to(memory_format=layout).requires_grad_()
    exact = x.detach().double().requires_grad_()
    grad = (torch.randn(x.shape) + torch.randn(16, 1, 1)).bfloat16()
    out = ours(x)
    assert out.dtype == torch.bfloat16 and type(out.grad_fn).__name__ == "GroupNormGradientBackward"
    out.backward(grad)
    theirs(exact).backward(grad.double())
    for one, other in [(x, exact), (ours.weight, theirs.weight), (ours.bias, theirs.bias)]:
        error = (one.grad.double() - other.grad).norm() / other.grad.norm()
        assert error < 0.004, error


def test_group_normalisation_of_float32_maps_is_torchs():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    ours, theirs = GroupNorm(2, 8)(x), nn.GroupNorm(2, 8)(x)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (ours, theirs)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_its_share_and_scales_the_rest(dtype):
    torch.manual_seed(0)
    dropout, x = Dropout(0.1), torch.ones(1001, 999, dtype=dtype, requires_grad=True)
    out = dropout(x)
    dropped = out == 0
    share, sd = dropped.double().mean().item(), (0.1 * 0.9 / out.numel()) ** 0.5
    assert abs(share - 0.1) < 4 * sd
    assert abs(dropped.double().mean(0).std().item() / (0.09 / 1001) ** 0.5 - 1) < 0.1  # columns as independent draws
    torch.testing.assert_close(out[~dropped], torch.full((), 1 / 0.9, dtype=dtype).expand(int((~dropped).sum())),
                               rtol=1e-4, atol=0)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())  # what was dropped gets no gradient, the rest its scale
    assert not torch.equal(dropout(x) == 0, dropped)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), out)
    assert torch.equal(dropout.eval()(x), x)
