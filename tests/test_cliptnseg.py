"""CLIP-TNseg: counts of the specification (6.6), tokens and condition computed a second way."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xbuslib.models.cliptnseg import CLIPTNseg
from xbuslib.models.system import Prompts, count


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def run(system: CLIPTNseg, image: torch.Tensor, texts: list[str]) -> torch.Tensor:
    return system(image, system.encode_images(image), Prompts(local_text=system.encode_texts(texts)))


@pytest.fixture(scope="module")
def quick() -> CLIPTNseg:
    torch.manual_seed(0)
    return CLIPTNseg("quick", "random", 64).eval()


@pytest.fixture(scope="module")
def full() -> CLIPTNseg:
    with torch.device("meta"):  # shapes and counts only
        return CLIPTNseg("paper", "random", 352)


# ---- counts and shapes -------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_specification(full):
    trainable, frozen = count(full)
    assert trainable == 8_663_201
    assert parameters(full.coarse) == 2_105_408
    assert parameters(full.fine) == 6_384_800
    assert parameters(full.fuse) + parameters(full.head) == 172_993
    assert frozen == 149_620_737 + (22**2 - 14**2) * 768  # CLIP, with a position for each of 22×22 patches


def test_full_size_reads_485_tokens_and_makes_64_and_32_channels(full):
    image = torch.rand(3, 1, 352, 352, device="meta")
    tokens = full.encode_images(image)
    assert tokens.shape == (3, 3, 485, 768)
    condition = torch.rand(3, 512, device="meta")
    assert full.coarse(tokens, condition, (22, 22)).shape == (3, 64, 352, 352)
    assert full.fine(image.expand(-1, 3, -1, -1)).shape == (3, 32, 352, 352)
    assert full(image, tokens, Prompts(local_text=condition)).shape == (3, 1, 352, 352)


def test_fine_branch_uses_eighteen_skips_on_six_levels(full):
    seen = []  # channels and height of what each decoder block is given
    hooks = [block.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[1:3])))
             for block in full.fine.decoder]
    full.fine(torch.rand(1, 3, 352, 352, device="meta"))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 18
    assert [height for _, height in seen[::3]] == [11, 22, 44, 88, 176, 352]
    assert seen[0] == (256, 11) and seen[-1] == (64, 352)


def test_quick_is_small(quick):
    assert count(quick)[0] < 3_000_000


@pytest.mark.parametrize("batch", [1, 3])
def test_logits_have_the_images_size(quick, batch):
    image = torch.rand(batch, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    logits = run(quick, image, ["round shape"] * batch)
    assert logits.shape == image.shape
    assert logits.isfinite().all()


# ---- training ----------------------------------------------------------------------------------------------


def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one():
    torch.manual_seed(1)
    system = CLIPTNseg("quick", "random", 64).train()
    run(system, torch.rand(2, 1, 64, 64), ["oval shape", "irregular shape"]).square().sum().backward()
    for name, parameter in system.named_parameters():
        if name.startswith("clip."):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert not any(module.training for module in system.clip.modules())


def test_half_precision_gives_nearly_the_same_logits(quick):
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        exact = run(quick, image, ["oval shape", "irregular shape"])
        with torch.autocast("cpu", torch.bfloat16):
            half = run(quick, image, ["oval shape", "irregular shape"]).float()
    assert half.isfinite().all()
    assert (half - exact).abs().mean() < 0.1 * exact.std()


def test_saved_state_holds_all_that_is_trained_and_no_clip(quick, tmp_path):
    state = quick.trainable_state()
    assert sum(tensor.numel() for tensor in state.values()) == count(quick)[0]
    save_file(state, tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    other = CLIPTNseg("quick", "random", 64).eval()
    other.clip.load_state_dict(quick.clip.state_dict())
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(run(other, image, ["oval"]), run(quick, image, ["oval"]))
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=False)
        assert torch.equal(run(other, image, ["oval"]), run(quick, image, ["oval"]))


# ---- tokens and condition ----------------------------------------------------------------------------------


def test_tokens_are_those_of_blocks_3_7_and_9_with_the_class_token_first(quick):
    seen, blocks = {}, quick.clip.model.visual.transformer.resblocks
    hooks = [blocks[i].register_forward_hook(lambda _, __, out, i=i: seen.update({i: out}))
             for i in (3, 7, 9)]
    image = torch.rand(2, 1, 64, 64)
    tokens = quick.encode_images(image)
    for hook in hooks:
        hook.remove()
    assert tokens.shape == (2, 3, 17, 96)
    for position, block in enumerate((3, 7, 9)):
        assert torch.equal(tokens[:, position], seen[block].transpose(0, 1))  # blocks run with tokens first
    assert torch.equal(tokens[:, :, 1:], quick.clip.tokens(image))  # without it, patches alone as before


def test_clip_sees_images_with_imagenets_mean_and_sd(quick):
    grey = torch.full((1, 1, 2, 2), 0.485)
    assert quick.clip.normalise(grey)[0, 0].abs().max() < 1e-6
    assert torch.equal(quick.clip.normalise(grey), quick.normalise(grey))


def test_coarse_branch_conditions_the_deepest_tokens_once(quick):
    coarse, blocks, project = quick.coarse, quick.coarse.blocks, quick.coarse.project
    tokens, condition = torch.randn(2, 3, 17, 96), torch.randn(2, 128)
    coarse.blocks, coarse.project = nn.ModuleList(nn.Identity() for _ in range(3)), nn.Identity()
    got = coarse(tokens, condition, (4, 4))
    coarse.blocks, coarse.project = blocks, project
    shallow, middle, deep = (coarse.reduce[j](tokens[:, j]) for j in range(3))
    scale, shift = coarse.multiply(condition)[:, None], coarse.add(condition)[:, None]
    expected = (scale * deep + shift + middle + shallow)[:, 1:]  # (2, 16, 32)
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(got[:, :, row, column], expected[:, 4 * row + column])


def test_text_moves_the_logits_of_its_image_only(quick):
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        logits = run(quick, image, ["oval shape, BI-RADS 2", "a lesion"])
        other = run(quick, image, ["spiculated margin, BI-RADS 5", "a lesion"])
    assert not torch.allclose(logits[0], other[0])
    assert torch.allclose(logits[1], other[1], atol=1e-5)


def test_visual_prompts_live_in_the_space_of_the_texts(quick):
    pictures = torch.rand(3, 1, 64, 64)
    embeddings = quick.encode_visual(pictures)
    assert embeddings.shape == quick.encode_texts(["a", "b", "c"]).shape
    assert not torch.allclose(embeddings[0], embeddings[1])


def test_condition_is_mixed_with_a_picture_where_the_phrase_has_a_partner(quick):
    text, visual = torch.ones(64, 128), torch.zeros(64, 128)
    partner = torch.arange(64) % 2 == 0
    mixed = quick.mix_conditions(text, visual, partner, torch.Generator().manual_seed(0))
    assert (mixed[~partner] == 1).all()  # the text alone
    weights = mixed[partner, 0]
    assert (mixed[partner] == weights[:, None]).all()  # one weight per sample
    assert weights.min() < 0.2 and weights.max() > 0.8 and len(weights.unique()) == 32
