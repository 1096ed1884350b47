"""UNet and U-ResNet: the whole forward pass, written a second time (specifications 1 and 2)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.plain import (
    IMAGENET,
    batch_norm,
    close,
    conv,
    double_conv,
    resnet,
    scramble,
    three_channels,
    up_block,
    up_conv,
)
from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts


def unet(s: dict, image: Tensor, training: bool = False) -> Tensor:
    """Specification 1: five resolutions, max-pooling between them, transposed convolutions and skips on the way up."""
    x = double_conv(s, "encoder.0", three_channels(image, *IMAGENET), training)
    skips = []
    for level in (1, 2, 3, 4):
        skips.append(x)
        x = double_conv(s, f"encoder.{level}", F.max_pool2d(x, 2), training)
    for step in range(4):
        x = up_block(s, f"decoder.{step}", x, skips.pop(), training)
    return conv(s, "head", x)


def uresnet(s: dict, image: Tensor, training: bool = False) -> Tensor:
    """Specification 2: the skips are the third, second and first stage and the stem."""
    stem, one, two, three, four = resnet(s, "encoder", three_channels(image, *IMAGENET), training)
    x = up_block(s, "up4", four, three, training)
    x = up_block(s, "up3", x, two, training)
    x = up_block(s, "up2", x, one, training)
    x = up_block(s, "up1", x, stem, training)
    return conv(s, "head", up_conv(s, "final", x))


ORACLES = {"unet": unet, "uresnet": uresnet}


def built(name: str, size: str = "quick"):
    torch.manual_seed(3)
    system = registry.build(name, resolve("smoke", {"size": size}))
    return scramble(system)


@pytest.mark.parametrize("size", ["quick", "paper"])
@pytest.mark.parametrize("name", ORACLES)
def test_the_forward_pass_is_that_of_the_specification(name, size):
    """In the paper's size too: only there is the encoder a ResNet-50, whose blocks have a bottleneck."""
    system, image = built(name, size), torch.rand(2, 1, 64, 96)
    with torch.no_grad():
        close(system(image, None, Prompts()), ORACLES[name](system.state_dict(), image))


@pytest.mark.parametrize("name", ORACLES)
def test_in_training_batch_norm_uses_the_statistics_of_the_batch(name):
    """There is no dropout: training differs from evaluation in this alone. Dividing by the spread of few numbers
    enlarges the rounding of single precision."""
    system, image = built(name).train(), torch.rand(3, 1, 64, 64)
    before = {key: value.clone() for key, value in system.state_dict().items()}
    with torch.no_grad():
        close(system(image, None, Prompts()), ORACLES[name](before, image, training=True), 5e-5)
    first = "encoder.0.1" if name == "unet" else "encoder.bn1"
    x = three_channels(image, *IMAGENET)
    x = conv(before, "encoder.0.0", x, padding=1) if name == "unet" else conv(before, "encoder.conv1", x, stride=2,
                                                                              padding=3)
    kept = 0.9 * before[f"{first}.running_mean"] + 0.1 * x.mean((0, 2, 3))
    close(system.state_dict()[f"{first}.running_mean"], kept)


def test_batch_norm_of_these_tests_is_torchs():
    draw = torch.rand(2, 4, 3, 3)
    norm = scramble(torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    s = norm.state_dict()
    close(batch_norm(s, "0", draw), norm(draw).detach())
    close(batch_norm(s, "0", draw, training=True), norm.train()(draw).detach())


def test_widths_of_the_unet_in_the_papers_size():
    with torch.device("meta"):
        s = registry.build("unet", resolve("smoke", {"size": "paper"})).state_dict()
    assert [s[f"encoder.{level}.0.weight"].shape[0] for level in range(5)] == [64, 128, 256, 512, 1024]
    assert [s[f"decoder.{step}.conv.0.weight"].shape[0] for step in range(4)] == [512, 256, 128, 64]
    assert "encoder.0.0.bias" not in s and "decoder.0.up.bias" in s
