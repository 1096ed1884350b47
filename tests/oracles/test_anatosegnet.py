"""AnatoSegNet: attention with differences, and the whole forward pass, written a second time (specification 4)."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.plain import (
    close,
    conv,
    grid,
    linear,
    resnet,
    resnet_stage,
    scramble,
    three_channels,
    tokens,
    up_block,
    up_conv,
)
from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts

HEADS = 8


def across(x: Tensor) -> Tensor:
    """Forward difference along the width; none in the last column."""
    return torch.stack([x[..., c + 1] - x[..., c] for c in range(x.shape[3] - 1)] + [0 * x[..., -1]], 3)


def down(x: Tensor) -> Tensor:
    """Forward difference along the height; none in the last row."""
    return torch.stack([x[:, :, r + 1] - x[:, :, r] for r in range(x.shape[2] - 1)] + [0 * x[:, :, -1]], 2)


def attention(s: dict, name: str, x: Tensor, beta: float = 3.5, gamma: float = 1.0) -> Tensor:
    """Specification 4.3: softmax((q·kᵀ + q_h·k_hᵀ + q_v·k_vᵀ)/√(head dim) + β − γ|i − j|)·v, then a linear layer."""
    height, width = x.shape[2:]
    places = torch.arange(height * width)
    bias = torch.stack([beta - gamma * (i - places).abs().float() for i in places])
    q, k, v = linear(s, f"{name}.qkv", tokens(x)).chunk(3, -1)
    q_h, k_h, _ = linear(s, f"{name}.qkv", tokens(across(x))).chunk(3, -1)
    q_v, k_v, _ = linear(s, f"{name}.qkv", tokens(down(x))).chunk(3, -1)
    each, heads = x.shape[1] // HEADS, []
    for h in range(HEADS):
        at = slice(h * each, (h + 1) * each)
        logits = sum(a[..., at] @ b[..., at].transpose(1, 2) for a, b in ((q, k), (q_h, k_h), (q_v, k_v)))
        heads.append((logits / each ** 0.5 + bias).softmax(-1) @ v[..., at])
    return grid(linear(s, f"{name}.project", torch.cat(heads, -1)), height, width)


def scores(s: dict, image: Tensor, training: bool = False, beta: float = 3.5) -> Tensor:
    """U-ResNet; attention in place of the third and fourth stage's maps; image in [−1, 1]; two classes."""
    x = three_channels(image, (0.5,) * 3, (0.5,) * 3)
    stem, one, two, three, _ = resnet(s, "encoder", x, training)
    three = attention(s, "refine4", three, beta)
    four = attention(s, "refine5", resnet_stage(s, "encoder.layer4", three, 2, training), beta)
    x = up_block(s, "up4", four, three, training)
    x = up_block(s, "up3", x, two, training)
    x = up_block(s, "up2", x, one, training)
    x = up_block(s, "up1", x, stem, training)
    return conv(s, "head", up_conv(s, "final", x))


@pytest.fixture(scope="module")
def system():
    """Attention weights three times as strong as at first, so that the products count beside the distance."""
    torch.manual_seed(5)
    built = scramble(registry.build("anatosegnet", resolve("smoke")))
    with torch.no_grad():
        for module in (built.refine4, built.refine5):
            module.qkv.weight.mul_(3)
    return built


def drawn(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("training", [False, True])
def test_the_forward_pass_is_that_of_the_specification(system, training):
    """Lesion minus background: the logit whose sigmoid is the softmax's second class.

    In training with the statistics of the batch and without dropout; dividing by the spread of few numbers enlarges
    the rounding of single precision.
    """
    image, copied = drawn(3, 1, 96, 128), copy.deepcopy(system).train(training)
    with torch.no_grad():
        found = copied(image, None, Prompts())
        background, lesion = scores(system.state_dict(), image, training).chunk(2, 1)
    close(found, lesion - background, 5e-4 if training else 1e-5)
    close(found.sigmoid(), torch.cat([background, lesion], 1).softmax(1)[:, 1:], 5e-4 if training else 1e-5)


def test_the_papers_size_on_a_resnet_50():
    """Heads of 128 and 256 numbers."""
    torch.manual_seed(6)
    system = scramble(registry.build("anatosegnet", resolve("smoke", {"size": "paper"})))
    assert system.refine4.qkv.weight.shape == (3 * 1024, 1024) and system.refine5.qkv.weight.shape == (3 * 2048, 2048)
    image = drawn(1, 1, 64, 96)
    with torch.no_grad():
        background, lesion = scores(system.state_dict(), image).chunk(2, 1)
        close(system(image, None, Prompts()), lesion - background)


@pytest.mark.parametrize("height, width", [(4, 6), (7, 3)])
def test_the_attention_alone(system, height, width):
    x = torch.randn(2, 256, height, width, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        close(system.refine4(x), attention(system.state_dict(), "refine4", x))


def test_beta_cancels(system):
    image, s = drawn(1, 1, 64, 64), system.state_dict()
    close(scores(s, image, beta=2.0), scores(s, image, beta=3.5))


def test_the_bias_alone_gives_46_percent_to_the_token_itself_and_97_to_its_neighbours(system):
    """Specification 4.3: γ = 1. Queries and keys of nothing, values that name their own place."""
    attend = copy.deepcopy(system.refine4)
    with torch.no_grad():
        attend.qkv.weight.zero_()
        attend.qkv.weight[512:].copy_(torch.eye(256))
        attend.project.weight.copy_(torch.eye(256))
        attend.project.bias.zero_()
        weights = attend(F.one_hot(torch.arange(256)).float().T.reshape(1, 256, 16, 16))
    weights = weights.reshape(256, 256)  # of the token in the row, in the output of the token in the column
    middle = 8 * 16
    assert weights[middle, middle] == pytest.approx(0.46, abs=0.005)
    assert weights[middle - 3:middle + 4, middle].sum() == pytest.approx(0.97, abs=0.005)


def test_differences_run_along_the_axes_of_the_image(system):
    """Equal in all columns: no difference across, so only the other two products are left, and the other way round."""
    s = system.state_dict()
    row = torch.randn(1, 256, 1, 6, generator=torch.Generator().manual_seed(4)).expand(-1, -1, 4, -1)
    assert across(row).abs().sum() > 0 and (down(row) == 0).all()
    with torch.no_grad():
        close(system.refine4(row), attention(s, "refine4", row))
        close(system.refine4(row.transpose(2, 3)), attention(s, "refine4", row.transpose(2, 3)))


def test_attention_has_no_bias_in_its_queries_and_one_in_its_output(system):
    s = system.state_dict()
    assert "refine4.qkv.bias" not in s and "refine5.qkv.bias" not in s
    assert s["refine4.project.bias"].abs().sum() > 0
