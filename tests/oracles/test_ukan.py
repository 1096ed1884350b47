"""U-KAN: its splines, its blocks and the whole forward pass, written a second time (specification 3)."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import BSpline
from torch import Tensor

from oracles.plain import (
    IMAGENET,
    batch_norm,
    close,
    conv,
    double_conv,
    grid,
    layer_norm,
    scramble,
    three_channels,
    tokens,
)
from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts

ORDER, INTERVALS, LOW, HIGH = 3, 5, -1.0, 1.0  # specification 3.3
STEP = (HIGH - LOW) / INTERVALS
KNOTS = [LOW + (i - ORDER) * STEP for i in range(INTERVALS + 2 * ORDER + 1)]
KAN_BLOCKS = {"stage4.2": "stage4.3", "bottleneck.2": "bottleneck.3", "kan1.0": "kan1.1", "kan2.0": "kan2.1"}


def basis(x: Tensor) -> Tensor:
    """(…, 8) cubic B-splines at x by the recursion of Cox and de Boor; intervals closed on the left."""
    kind, x = x.dtype, x.double()
    splines = [((x >= a) & (x < b)).double() for a, b in pairwise(KNOTS)]
    for k in range(1, ORDER + 1):
        splines = [
            (x - KNOTS[i]) / (KNOTS[i + k] - KNOTS[i]) * splines[i]
            + (KNOTS[i + k + 1] - x) / (KNOTS[i + k + 1] - KNOTS[i + 1]) * splines[i + 1]
            for i in range(len(splines) - 1)
        ]
    return torch.stack(splines, -1).to(kind)


def kan_linear(s: dict, name: str, x: Tensor) -> Tensor:
    """W_base · SiLU(x) + Σ over features and splines of (W_spline · s) · B(x); no bias."""
    base, spline, scale = (s[f"{name}.{part}"] for part in ("base", "spline", "scale"))
    return (x * x.sigmoid()) @ base.T + torch.einsum("bnik,oik->bno", basis(x), spline * scale[:, :, None])


def kan_block(s: dict, name: str, x: Tensor, height: int, width: int, training: bool = False) -> Tensor:
    """x + KANLayer(LayerNorm(x)): three times KANLinear, then depthwise 3×3, batch norm and ReLU on the map."""
    y = layer_norm(s, f"{name}.norm", x)
    for i in range(3):
        y = grid(kan_linear(s, f"{name}.linears.{i}", y), height, width)
        y = conv(s, f"{name}.convs.{i}.0", y, padding=1, groups=y.shape[1])
        y = tokens(batch_norm(s, f"{name}.convs.{i}.1", y, training).relu())
    return x + y


def tokenised(s: dict, name: str, norm: str, x: Tensor, training: bool = False) -> Tensor:
    """A map through a KAN block and the layer norm after it."""
    height, width = x.shape[2:]
    return grid(layer_norm(s, norm, kan_block(s, name, tokens(x), height, width, training)), height, width)


def embedded(s: dict, name: str, x: Tensor, training: bool = False) -> Tensor:
    """Overlapping patches of half the resolution, with a layer norm, into a KAN block."""
    x = conv(s, f"{name}.0", x, stride=2, padding=1)
    x = grid(layer_norm(s, f"{name}.1", tokens(x)), *x.shape[2:])
    return tokenised(s, f"{name}.2", f"{name}.3", x, training)


def ukan(s: dict, image: Tensor, training: bool = False) -> Tensor:
    """Specification 3.2, row after row of its table. Skips are added."""
    def twice(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False).relu()

    t1 = F.max_pool2d(double_conv(s, "enc1.0", three_channels(image, *IMAGENET), training), 2).relu()
    t2 = F.max_pool2d(double_conv(s, "enc2.0", t1, training), 2).relu()
    t3 = F.max_pool2d(double_conv(s, "enc3.0", t2, training), 2).relu()
    t4 = embedded(s, "stage4", t3, training)
    x = embedded(s, "bottleneck", t4, training)
    x = tokenised(s, "kan1.0", "kan1.1", twice(double_conv(s, "dec1", x, training)) + t4, training)
    x = tokenised(s, "kan2.0", "kan2.1", twice(double_conv(s, "dec2", x, training)) + t3, training)
    x = twice(double_conv(s, "dec3", x, training)) + t2
    x = twice(double_conv(s, "dec4", x, training)) + t1
    return conv(s, "head", twice(double_conv(s, "dec5", x, training)))


@pytest.fixture(scope="module")
def system():
    """Splines ten times as strong as at first, so that they count beside the base weights."""
    torch.manual_seed(4)
    built = scramble(registry.build("ukan", resolve("smoke")))
    with torch.no_grad():
        for name, value in built.state_dict().items():
            if name.endswith(".spline"):
                value.mul_(10)
    return built


def kan_layer(system, name: str = "kan1.0"):
    return system.get_submodule(f"{name}.linears.0")


def test_the_recursion_of_these_tests_is_scipys():
    x = torch.linspace(-1, 1, 201)[:-1]
    for i, found in enumerate(basis(x).T):
        piece = BSpline.basis_element(np.array(KNOTS[i:i + ORDER + 2]), extrapolate=False)
        np.testing.assert_allclose(found, np.nan_to_num(piece(x.double().numpy())), atol=1e-6)
    np.testing.assert_allclose(basis(x).sum(-1), 1, atol=1e-6)


def test_the_grid_has_twelve_knots_and_eight_splines():
    np.testing.assert_allclose(KNOTS, np.arange(-11, 12, 2) / 5, atol=1e-12)
    assert basis(torch.zeros(1)).shape == (1, 8)


def spline_of(layer, x: np.ndarray) -> np.ndarray:
    """What the first output of a KAN layer adds to its base term for x in its first input; the others are at −10,
    beyond the knots, where no spline is."""
    inputs = torch.full((len(x), layer.spline.shape[1]), -10.0)
    inputs[:, 0] = torch.tensor(x)
    with torch.no_grad():
        bare = copy.deepcopy(layer)
        bare.spline.zero_()
        return (layer(inputs) - bare(inputs))[:, 0].numpy()


def test_a_kan_layer_is_scipys_spline_plus_the_silu_of_its_input(system):
    layer = kan_layer(system)
    x = np.linspace(-3, 3, 500, dtype=np.float32)  # no knot among them
    curve = BSpline(np.array(KNOTS), (layer.spline[0, 0] * layer.scale[0, 0]).detach().double().numpy(), ORDER,
                    extrapolate=False)
    # scipy's own domain ends at ±1, where the order's worth of knots begins: beyond it, spline by spline
    expected = sum(c * np.nan_to_num(BSpline.basis_element(np.array(KNOTS[i:i + 5]), extrapolate=False)(x))
                   for i, c in enumerate(curve.c))
    np.testing.assert_allclose(expected[abs(x) < 1], curve(x)[abs(x) < 1], atol=1e-9)
    np.testing.assert_allclose(spline_of(layer, x), expected, atol=1e-5 * abs(expected).max())
    assert (spline_of(layer, x)[abs(x) > 2.21] == 0).all() and abs(expected[(x > 1.5) & (x < 2.1)]).max() > 1e-3


def test_a_kan_layer_by_the_recursion(system):
    layer, s = kan_layer(system), system.state_dict()
    x = 1.5 * torch.randn(2, 7, layer.base.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        close(layer(x), kan_linear(s, "kan1.0.linears.0", x))


def test_intervals_are_closed_on_the_left(system):
    """At a knot the interval on its right counts. Splines of order 3 are smooth there, so the last knot tells."""
    layer = kan_layer(system)
    assert spline_of(layer, np.array([2.2, 2.25, -2.25], np.float32)).tolist() == [0, 0, 0]
    inside = spline_of(layer, np.array([-1, 1], np.float32))  # knots that single precision meets
    beside = spline_of(layer, np.array([-1.00001, 1.00001], np.float32))
    np.testing.assert_allclose(inside, beside, atol=1e-3 * abs(inside).max())
    assert abs(inside).min() > 0


@pytest.mark.parametrize("training", [False, True])
def test_the_forward_pass_is_that_of_the_specification(system, training):
    """In training too: with the statistics of the batch, and without dropout or drop-path, which are 0.

    Dividing by the spread of few numbers enlarges the rounding of single precision.
    """
    image = torch.rand(4, 1, 64, 96, generator=torch.Generator().manual_seed(1))
    copied = copy.deepcopy(system).train(training)
    with torch.no_grad():
        found, expected = copied(image, None, Prompts()), ukan(system.state_dict(), image, training)
    close(found, expected, 5e-5 if training else 1e-5)


def test_the_papers_size_has_the_authors_widths():
    with torch.device("meta"):
        s = registry.build("ukan", resolve("smoke", {"size": "paper"})).state_dict()
    convs = {"enc1.0": 16, "enc2.0": 32, "enc3.0": 128, "dec1": 160, "dec2": 128, "dec3": 32, "dec4": 16, "dec5": 16}
    assert {name: s[f"{name}.3.weight"].shape[0] for name in convs} == convs
    assert {name: tuple(s[f"{name}.linears.2.spline"].shape) for name in KAN_BLOCKS} == {
        name: (width, width, 8) for name, width in zip(KAN_BLOCKS, (160, 256, 160, 128), strict=True)}


def test_weights_start_as_the_authors_do():
    """Specification 3.2 and 3.3: KAN weights U(±1/√i), splines near 0.009, convolutions N(0, √(2/fan out)), bias 0."""
    torch.manual_seed(0)
    s = registry.build("ukan", resolve("smoke")).state_dict()
    for block in KAN_BLOCKS:
        for i in range(3):
            base, scale, spline = (s[f"{block}.linears.{i}.{part}"] for part in ("base", "scale", "spline"))
            bound = base.shape[1] ** -0.5
            for value in (base, scale):
                assert 0.99 * bound < value.abs().max() <= bound
                assert value.std() == pytest.approx(bound / 3 ** 0.5, rel=0.03)
            assert spline.std() == pytest.approx(0.009, rel=0.1)
            depthwise = s[f"{block}.convs.{i}.0.weight"]  # fan out: 9 numbers for each of as many groups as channels
            assert depthwise.std() == pytest.approx((2 / 9) ** 0.5, rel=0.1)
            assert (s[f"{block}.convs.{i}.0.bias"] == 0).all()
    for name in ("stage4", "bottleneck"):
        weight = s[f"{name}.0.weight"]
        assert weight.std() == pytest.approx((2 / (9 * weight.shape[0])) ** 0.5, rel=0.03)
        assert (s[f"{name}.0.bias"] == 0).all()
