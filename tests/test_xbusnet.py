"""XBusNet against the paper's equations and the specification's counts."""

import pytest
import torch
from safetensors.torch import load, save

from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.layers import SFA
from xbuslib.models.system import Prompts, count


@pytest.fixture(scope="module")
def quick():
    torch.manual_seed(0)
    return registry.build("xbusnet", resolve("quick"))


@pytest.fixture(scope="module")
def paper():
    torch.manual_seed(0)
    return registry.build("xbusnet", resolve("paper", {"weights": "random"}))


def inputs(system, batch=2, size=64):
    """(image, features, prompts) for a batch of noise."""
    image = torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(1))
    texts = system.encode_texts([f"a lesion, BI-RADS {i}" for i in range(batch)])
    return image, system.encode_images(image), Prompts(texts, texts.flip(0))


def test_parameter_counts_of_the_paper_profile(paper):
    """By hand from the layer formulae (specs 7.4, 8); notebook 03 derives them in full."""
    linear = lambda i, o: i * o + o  # noqa: E731
    sfa = lambda c: linear(512, max(256, c)) + linear(max(256, c), 2 * c)  # noqa: E731
    gfe = 3 * linear(768, 64) + linear(512, 512) + 2 * linear(512, 64) + (64 * 64 * 256 + 64) + sfa(64)
    assert count(paper.gfe) == (gfe, 0) == (1_688_832, 0)

    block = lambda d: linear(d, 3 * d) + linear(d, d) + linear(d, 4 * d) + linear(4 * d, d) + 4 * d  # noqa: E731
    up = lambda i, s, o: i * o * 4 + o + (o + s) * o * 9 + o + o * o * 9 + o + 4 * o  # noqa: E731
    lfe = 23_508_032 + block(1024) + block(2048) + up(2048, 1024, 1024) + up(1024, 512, 512) + up(512, 256, 256) \
        + up(256, 64, 64) + (64 * 32 * 4 + 32) + 2 * sfa(1024) + sfa(512) + sfa(256)
    assert count(paper.lfe) == (lfe, 0) == (141_128_736, 0)

    residual = lambda i, o: 2 * i + i * o * 9 + o + 2 * o + o * o * 9 + o + (linear(i, o) if i != o else 0)  # noqa: E731
    fusion = residual(96, 64) + residual(64, 64) + 65
    assert sum(count(part)[0] for part in (paper.fuse, paper.head)) == fusion == 172_993
    assert count(paper) == (gfe + lfe + fusion, count(paper.clip)[1])
    assert count(paper)[0] == pytest.approx(143.0e6, rel=0.001)
    assert count(paper)[1] == pytest.approx(149.6e6, rel=0.005)  # 352 pixels: 288 more positions than at 224


def test_shapes_of_the_equations(paper):
    """Every equation's tensor at 352 pixels, on a batch of one."""
    seen = {}
    for name in ("gfe.reduce.0", "gfe.project", "gfe", "lfe.block4", "lfe.block5", "lfe.up4", "lfe.up3", "lfe.up2",
                 "lfe.up1", "lfe", "fuse.0", "head"):
        paper.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: seen.__setitem__(name, tuple(out.shape)))
    with torch.no_grad():
        image, features, prompts = inputs(paper, batch=1, size=352)
        paper.eval()(image, features, prompts)
    assert tuple(features.shape) == (1, 3, 484, 768)  # Z: N - 1 = 22·22 tokens, D = 768
    assert seen == {"gfe.reduce.0": (1, 484, 64), "gfe.project": (1, 64, 352, 352), "gfe": (1, 64, 352, 352),
                    "lfe.block4": (1, 1024, 22, 22), "lfe.block5": (1, 2048, 11, 11), "lfe.up4": (1, 1024, 22, 22),
                    "lfe.up3": (1, 512, 44, 44), "lfe.up2": (1, 256, 88, 88), "lfe.up1": (1, 64, 176, 176),
                    "lfe": (1, 32, 352, 352), "fuse.0": (1, 64, 352, 352), "head": (1, 1, 352, 352)}


def test_sfa_by_hand():
    """C = 1, d = 2: hidden unit 0 = e0 + e1 = 5; gamma = 2·5 = 10, beta = 3·5 = 15; out = 10·F + 15 (+ F)."""
    for residual, expected in ((False, 10 * 2 + 15), (True, 10 * 2 + 15 + 2)):
        sfa = SFA(embedding=2, channels=1, residual=residual)
        with torch.no_grad():
            for parameter in sfa.parameters():
                parameter.zero_()
            sfa.mlp[0].weight[0] = torch.tensor([1.0, 1.0])
            sfa.mlp[2].weight[:, 0] = torch.tensor([2.0, 3.0])
            out = sfa(torch.full((1, 1, 2, 2), 2.0), torch.tensor([[1.0, 4.0]]))
        assert out.flatten().tolist() == [expected] * 4


def test_token_conditioning_by_hand(quick):
    """Eqs. (6), (7) recomputed token by token."""
    gfe = quick.gfe
    tokens, prompt = torch.rand(1, 3, 4, 96), torch.rand(1, 128)
    caught = []
    hook = gfe.project.register_forward_hook(lambda module, given, out: caught.append(given[0]))
    with torch.no_grad():
        gfe(tokens, prompt, (2, 2))
        c = gfe.condition.weight @ prompt[0] + gfe.condition.bias
        mul, add = gfe.multiply.weight @ c + gfe.multiply.bias, gfe.add.weight @ c + gfe.add.bias
        for n in range(4):
            a = sum(gfe.reduce[j].weight @ tokens[0, j, n] + gfe.reduce[j].bias for j in range(3))
            torch.testing.assert_close(caught[0][0, :, n // 2, n % 2], mul * a + add, rtol=1e-4, atol=1e-5)
    hook.remove()


def test_frozen_encoder_gets_no_gradient_and_stays_in_eval(quick):
    quick.train()
    assert not quick.clip.training and quick.lfe.training
    quick(*inputs(quick)).mean().backward()
    assert all(p.grad is None for p in quick.clip.parameters())
    assert [n for n, p in quick.named_parameters() if p.requires_grad and p.grad is None] == []
    quick.zero_grad(set_to_none=True)


def test_each_prompt_changes_the_logits(quick):
    quick.eval()
    image, features, given = inputs(quick)
    other = quick.encode_texts(["a large lesion in the lower left quadrant of the image"] * 2)
    with torch.no_grad():
        before = quick(image, features, given)
        assert not torch.allclose(before, quick(image, features, given._replace(global_text=other)), atol=1e-4)
        assert not torch.allclose(before, quick(image, features, given._replace(local_text=other)), atol=1e-4)
        assert torch.equal(before, quick(image, features, given))


def test_encoding_once_equals_encoding_at_every_step(quick):
    image = torch.rand(3, 1, 64, 64)
    together = quick.encode_images(image)
    apart = torch.cat([quick.encode_images(image[i:i + 1]) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    both, alone = quick.encode_texts(["a", "b"]), quick.encode_texts(["b"])
    torch.testing.assert_close(both[1], alone[0], rtol=1e-4, atol=1e-4)


def test_weights_go_through_safetensors(quick):
    torch.manual_seed(0)
    other = registry.build("xbusnet", resolve("quick"))  # same seed: same random frozen encoder
    with torch.no_grad():
        for p in other.lfe.parameters():
            p.add_(1.0)
    other.load_state_dict(load(save(quick.trainable_state())), strict=False)
    given = inputs(quick)
    with torch.no_grad():
        assert torch.equal(quick.eval()(*given), other.eval()(*given))
    assert not any(key.startswith("clip.") for key in quick.trainable_state())


def test_half_precision_logits_are_finite(quick):
    with torch.autocast("cpu", torch.bfloat16):
        assert quick.train()(*inputs(quick)).isfinite().all()
