"""XBusNet as released: counts of the specification (7.9), the global branch, condition mixing."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xbuslib.models.system import Prompts, count
from xbuslib.models.xbusnet_released import XBusNetReleased


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def run(system: XBusNetReleased, image: torch.Tensor, global_text: str, local_text: str) -> torch.Tensor:
    texts = system.encode_texts([global_text, local_text])[:, None].expand(-1, len(image), -1)  # (2, B, d)
    return system(image, None, Prompts(global_text=texts[0], local_text=texts[1]))


@pytest.fixture(scope="module")
def quick() -> XBusNetReleased:
    torch.manual_seed(0)
    return XBusNetReleased("quick", "random", 64).eval()


def test_parameters_are_those_of_the_specification():
    with torch.device("meta"):
        full = XBusNetReleased("paper", "random", 352)
    assert count(full)[0] == 141_406_241
    assert parameters(full.gfe) == 104_512
    assert parameters(full.lfe) == 141_128_736
    assert parameters(full.fuse) + parameters(full.head) == 172_993
    image, prompt = torch.rand(3, 1, 352, 352, device="meta"), torch.rand(3, 512, device="meta")
    assert full(image, None, Prompts(prompt, prompt)).shape == image.shape


def test_no_clip_token_enters(quick):
    assert quick.encode_images(torch.rand(1, 1, 64, 64)) is None
    assert quick.prompt_style == "released"
    assert [record["encoder"] for record in quick.weights_record] == ["clip", "resnet18"]


@pytest.mark.parametrize("batch", [1, 3])
def test_logits_have_the_images_size(quick, batch):
    image = torch.rand(batch, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    logits = run(quick, image, "a tumor", "oval shape")
    assert logits.shape == image.shape
    assert logits.isfinite().all()


def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one():
    torch.manual_seed(1)
    system = XBusNetReleased("quick", "random", 64).train()
    for module in system.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts residual branches at zero: no gradient yet
    run(system, torch.rand(2, 1, 64, 64), "a tumor", "oval shape").square().sum().backward()
    for name, parameter in system.named_parameters():
        if name.startswith("clip."):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_global_branch_scales_and_shifts_the_convolved_image(quick):
    gfe = quick.gfe
    image, prompt = torch.randn(2, 3, 8, 8), torch.randn(2, 128)
    seen = []
    hook = gfe.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert gfe(image, prompt).shape == (2, 32, 8, 8)  # half of 64 in quick
    hook.remove()
    for sample in range(2):
        scale = gfe.multiply.weight @ prompt[sample] + gfe.multiply.bias
        shift = gfe.add.weight @ prompt[sample] + gfe.add.bias
        expected = scale[:, None, None] * gfe.stem(image)[sample] + shift[:, None, None]
        torch.testing.assert_close(seen[0][sample], expected, atol=1e-5, rtol=1e-4)


def test_both_texts_move_the_logits(quick):
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        logits = run(quick, image, "a tumor near (30, 40)", "oval shape")
        assert not torch.allclose(logits, run(quick, image, "a tumor near (90, 10)", "oval shape"))
        assert not torch.allclose(logits, run(quick, image, "a tumor near (30, 40)", "irregular shape"))


def test_half_precision_gives_nearly_the_same_logits(quick):
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        exact = run(quick, image, "a tumor", "oval shape")
        with torch.autocast("cpu", torch.bfloat16):
            half = run(quick, image, "a tumor", "oval shape").float()
    assert half.isfinite().all()
    assert (half - exact).abs().mean() < 0.1 * exact.std()


def test_saved_state_holds_all_that_is_trained_and_no_clip(quick, tmp_path):
    state = quick.trainable_state()
    assert not any(key.startswith("clip.") for key in state)
    save_file(state, tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    other = XBusNetReleased("quick", "random", 64).eval()
    other.clip.load_state_dict(quick.clip.state_dict())
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=False)
        assert torch.equal(run(other, image, "a tumor", "oval"), run(quick, image, "a tumor", "oval"))


# ---- condition mixing, 7.7 ---------------------------------------------------------------------------------


def weights_of(mixed: torch.Tensor, text: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """The w of w·text + (1-w)·visual per sample, after checking that there is one."""
    weight = ((mixed - visual) * (text - visual)).sum(1) / (text - visual).square().sum(1)
    again = weight[:, None] * text + (1 - weight[:, None]) * visual
    torch.testing.assert_close(again, mixed, atol=1e-4, rtol=1e-4)
    return weight


def test_all_have_partners(quick):
    text, visual = torch.randn(8, 128), torch.randn(8, 128)
    partner = torch.ones(8, dtype=torch.bool)
    mixed = quick.mix_conditions(text, visual, partner, torch.Generator().manual_seed(0))
    weight = weights_of(mixed, text, visual)
    assert (weight > 0).all() and (weight < 1).all() and len(weight.unique()) == 8


def test_nobody_has_a_partner(quick):
    text, visual = torch.randn(8, 128), torch.randn(8, 128)
    partner = torch.zeros(8, dtype=torch.bool)
    mixed = quick.mix_conditions(text, visual, partner, torch.Generator().manual_seed(0))
    weights_of(mixed, text, torch.zeros_like(visual))


def test_those_without_a_partner_get_a_black_picture_if_another_has_one(quick):
    text, visual = torch.randn(4, 128), torch.randn(4, 128)
    partner = torch.tensor([True, False, True, False])
    mixed = quick.mix_conditions(text, visual, partner, torch.Generator().manual_seed(0))
    black = quick.encode_visual(torch.zeros(1, 1, 64, 64)).expand(4, -1)
    weights_of(mixed[partner], text[partner], visual[partner])
    weights_of(mixed[~partner], text[~partner], black[~partner])
