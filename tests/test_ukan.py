"""KAN layers against SciPy and against their formula by hand; U-KAN against the specification."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from xbuslib.models.kan import KANLinear, spline_basis
from xbuslib.models.system import Prompts, count
from xbuslib.models.ukan import UKAN, KANBlock

KNOTS = np.linspace(-2.2, 2.2, 12)  # spec 3.3: spacing 0.4


def test_basis_agrees_with_scipy():
    x = np.concatenate([np.linspace(-2.19, 2.19, 501), KNOTS[1:-1]])
    expected = np.stack([BSpline(KNOTS, np.eye(8)[i], 3, extrapolate=True)(x) for i in range(8)], axis=1)
    # SciPy continues the outer polynomials beyond its base interval [-1, 1]; single elements do not.
    elements = np.stack([np.nan_to_num(BSpline.basis_element(KNOTS[i : i + 5], extrapolate=False)(x))
                         for i in range(8)], axis=1)
    found = spline_basis(torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, elements, atol=2e-6)
    inside = np.abs(x) <= 1
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-6)


def test_basis_is_a_partition_of_unity_on_the_grid():
    basis = spline_basis(torch.linspace(-1, 1, 1001))
    assert basis.shape == (1001, 8) and (basis >= -1e-6).all()
    torch.testing.assert_close(basis.sum(-1), torch.ones(1001))
    assert spline_basis(torch.tensor(1.5)).sum() < 1  # and not beyond it


def test_basis_vanishes_outside_the_knots():
    assert not spline_basis(torch.tensor([-1e4, -2.3, -2.2001, 2.2001, 2.3, 1e4])).any()
    assert spline_basis(torch.tensor([-2.0, 2.0])).sum(-1).min() > 0


def test_layer_equals_the_formula_by_hand():
    layer = KANLinear(2, 1)
    with torch.no_grad():
        layer.base.copy_(torch.tensor([[2.0, -1.0]]))
        layer.scale.copy_(torch.tensor([[3.0, 0.5]]))
        layer.spline.zero_()
        layer.spline[0, 0, 3] = 1.0  # knots -1.0 … 0.6: peak 2/3 at -0.2
        layer.spline[0, 1, 4] = 4.0  # knots -0.6 … 1.0: 1/6 one spacing from its peak at 0.2
    x1, x2 = -0.2, 0.6
    silu = [x / (1 + math.exp(-x)) for x in (x1, x2)]
    expected = 2 * silu[0] - silu[1] + 3 * 1 * (2 / 3) + 0.5 * 4 * (1 / 6)
    assert layer(torch.tensor([[x1, x2]])).item() == pytest.approx(expected, abs=1e-5)


def test_layer_far_from_the_grid_is_its_base_path():
    layer, x = KANLinear(4, 3), torch.tensor([[5.0, -7.0, 3.0, -2.5]])
    torch.testing.assert_close(layer(x), torch.nn.functional.silu(x) @ layer.base.T)


def test_initial_weights():
    torch.manual_seed(0)
    layer = KANLinear(256, 256)
    assert layer.spline.std().item() == pytest.approx(0.009, abs=5e-4)  # spec 3.3
    curves = spline_basis(torch.linspace(-1, 1, 6)) @ layer.spline.detach()[0, 0]
    assert curves.abs().max() <= 0.01 + 1e-6  # noise U(-0.5, 0.5)·0.1/5 at the six grid points
    for weight in (layer.base, layer.scale):
        assert weight.abs().max().item() == pytest.approx(1 / 16, rel=1e-3)  # U(±1/√256)
        assert weight.std().item() == pytest.approx(1 / 16 / math.sqrt(3), rel=0.02)


def test_layer_under_autocast_keeps_its_basis_in_float32():
    layer, x = KANLinear(16, 8), torch.rand(5, 16) * 2 - 1
    assert spline_basis(x.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x)
        rough.float().sum().backward()
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), layer(x), rtol=0.02, atol=0.02)
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_gradient_to_the_input_is_the_slope():
    x = torch.linspace(-0.95, 0.95, 7, requires_grad=True)
    weights = torch.arange(8.0) ** 2
    (spline_basis(x) @ weights).sum().backward()
    slope = BSpline(KNOTS, weights.numpy(), 3).derivative()(x.detach().numpy())
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=1e-3)


def test_block_is_a_residual():
    block, features = KANBlock(8).eval(), torch.randn(2, 8, 4, 6)
    with torch.no_grad():
        block.convs[-1][1].weight.zero_()  # the last batch normalisation gives zero, so nothing is added
        assert torch.equal(block(features), features)


def test_parameter_counts_are_those_of_the_specification():
    system = UKAN("paper", "random")
    assert count(system) == (6_356_689, 0)
    groups = system.parameter_groups()
    assert sum(p.numel() for p in groups["kan"]) == 3_993_600
    assert len(groups["kan"]) == 12 * 3
    together = [id(p) for group in groups.values() for p in group]
    assert sorted(together) == sorted(id(p) for p in system.parameters())


def test_maps_of_the_paper_size_at_352():
    system, shapes = UKAN("paper", "random").eval(), {}
    for name in ("enc1", "enc2", "enc3", "stage4", "bottleneck", "kan1", "kan2"):
        getattr(system, name).register_forward_hook(
            lambda module, inputs, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
    with torch.no_grad():
        system(torch.rand(1, 1, 352, 352), None, Prompts())
    assert shapes == {
        "enc1": (16, 176, 176), "enc2": (32, 88, 88), "enc3": (128, 44, 44), "stage4": (160, 22, 22),
        "bottleneck": (256, 11, 11), "kan1": (160, 22, 22), "kan2": (128, 44, 44)}  # spec 3.2


def test_initial_convolutions_of_the_kan_stages():
    system = UKAN("paper", "random")
    embedding, depthwise = system.stage4[0], system.stage4[2].convs[0][0]
    assert embedding.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 160)), rel=0.02)
    assert depthwise.weight.std().item() == pytest.approx(math.sqrt(2 / 9), rel=0.1)  # fan_out 9·160/160
    assert not embedding.bias.any() and not depthwise.bias.any()
