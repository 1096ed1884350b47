"""CLIP-TNseg: both branches, their fusion and the mixed condition, written a second time (specification 6)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.plain import (
    IMAGENET,
    clip_image_embedding,
    clip_vision,
    close,
    conv,
    grid,
    layer_norm,
    linear,
    post_norm_layer,
    residual_block,
    scramble,
    self_attention,
    three_channels,
    up_conv,
    watch_dropout,
)
from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts

LAYERS = (3, 7, 9)
TEXTS = ["irregular shape, spiculated margin, BI-RADS 5", "oval shape, circumscribed margin, BI-RADS 3"]
# heads of CLIP, groups of the group norms: the specification's, and those of the library's small size
SIZES = {"paper": (12, 32), "quick": (3, 8)}


def coarse(s: dict, image: Tensor, text: Tensor, clip_heads: int) -> Tensor:
    """Specification 6.2: tokens of blocks 9, 7 and 3; FiLM once, at first; three post-norm layers of four heads."""
    height, width = image.shape[2] // 16, image.shape[3] // 16
    act = clip_vision(s, image, clip_heads)
    a = linear(s, "coarse.reduce.2", act[9])
    a = linear(s, "coarse.multiply", text)[:, None] * a + linear(s, "coarse.add", text)[:, None]
    a = post_norm_layer(s, "coarse.blocks.2", a, 4)
    a = post_norm_layer(s, "coarse.blocks.1", linear(s, "coarse.reduce.1", act[7]) + a, 4)
    a = post_norm_layer(s, "coarse.blocks.0", linear(s, "coarse.reduce.0", act[3]) + a, 4)
    return up_conv(s, "coarse.project", grid(a[:, 1:], height, width), 16)


def fine(s: dict, image: Tensor, groups: int) -> Tensor:
    """Specification 6.4: six levels of two residual blocks, strided convolutions between; three blocks per level on
    the way up, each of which takes the last of the 18 stored outputs that is left."""
    x, layer = conv(s, "fine.stem", image, padding=1), 0
    stored = [x]
    for level in range(6):
        for _ in range(2):
            x, layer = residual_block(s, f"fine.encoder.{layer}", x, groups), layer + 1
            stored.append(x)
        if level < 5:
            x, layer = conv(s, f"fine.encoder.{layer}", x, stride=2, padding=1), layer + 1
            stored.append(x)
    assert len(stored) == 18
    x = residual_block(s, "fine.middle.1", residual_block(s, "fine.middle.0", x, groups), groups)
    for level in range(6):
        for block in range(3):
            x = residual_block(s, f"fine.decoder.{3 * level + block}", torch.cat([x, stored.pop()], 1), groups)
        if level < 5:
            x = conv(s, f"fine.up.{level}", x.repeat_interleave(2, 2).repeat_interleave(2, 3), padding=1)
    return x


def cliptnseg(s: dict, image: Tensor, text: Tensor, size: str) -> Tensor:
    clip_heads, groups = SIZES[size]
    image = three_channels(image, *IMAGENET)  # into CLIP too, 6.1
    x = torch.cat([coarse(s, image, text, clip_heads), fine(s, image, groups)], 1)
    x = residual_block(s, "fuse.1", residual_block(s, "fuse.0", x, groups), groups)
    return conv(s, "head", x)


def built(size: str):
    torch.manual_seed(8)
    return scramble(registry.build("cliptnseg", resolve("smoke", {"size": size, "image_size": 96})))


@pytest.fixture(scope="module")
def system():
    return built("quick")


def drawn(*shape: int, seed: int = 9) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
def test_the_forward_pass_is_that_of_the_specification(system, size):
    system = system if size == "quick" else built(size)
    image, text = drawn(2, 1, 96, 96), 2 * drawn(2, 512 if size == "paper" else 128) - 1
    with torch.no_grad():
        found = system(image, system.encode_images(image), Prompts(local_text=text))
        close(found, cliptnseg(system.state_dict(), image, text, size))
    if size == "paper":
        s = system.state_dict()
        assert s["coarse.blocks.0.linear1.weight"].shape == (2048, 64)
        widths = [s[f"fine.encoder.{3 * level}.body.5.weight"].shape[0] for level in range(6)]
        assert widths == [32, 32, 64, 64, 128, 128]


def test_the_features_are_clips_tokens_with_the_class_token_first(system):
    """In the order of the layers, the shallowest first; not normalised."""
    image, s = drawn(2, 1, 96, 96), system.state_dict()
    tokens = clip_vision(s, three_channels(image, *IMAGENET), 3)
    close(system.encode_images(image), torch.stack([tokens[layer] for layer in LAYERS], 1))


def test_each_image_has_its_own_condition_and_its_own_tokens(system):
    image, text = drawn(2, 1, 96, 96), drawn(2, 128)
    features = system.encode_images(image)
    with torch.no_grad():
        both = system(image, features, Prompts(local_text=text))
        for i in (0, 1):
            alone = system(image[i:i + 1], features[i:i + 1], Prompts(local_text=text[i:i + 1]))
            close(both[i:i + 1], alone)


def test_texts_are_clips_and_keep_their_length(system):
    """Causal attention; the embedding is read at the end of the text, projected, not normalised."""
    s, at = system.state_dict(), "clip.model"
    ids = system.clip.tokenise(TEXTS)
    x = s[f"{at}.token_embedding.weight"][ids] + s[f"{at}.positional_embedding"]
    ahead = torch.full((77, 77), float("-inf")).triu(1)
    for i in range(12):
        block = f"{at}.transformer.resblocks.{i}"
        x = x + self_attention(s, f"{block}.attn", layer_norm(s, f"{block}.ln_1", x), 4, ahead)
        y = linear(s, f"{block}.mlp.c_fc", layer_norm(s, f"{block}.ln_2", x))
        x = x + linear(s, f"{block}.mlp.c_proj", y * (1.702 * y).sigmoid())
    x = layer_norm(s, f"{at}.ln_final", x)
    end = (ids == 49407).float().argmax(1)
    close(system.encode_texts(TEXTS), x[torch.arange(2), end] @ s[f"{at}.text_projection"])


def test_a_tenth_is_dropped_in_training(system):
    """In each of the three layers after attention, inside and after the feed-forward network; attention drops too."""
    image, text = drawn(4, 1, 96, 96), drawn(4, 128)
    features = system.encode_images(image)

    def run():
        with torch.no_grad():
            return system(image, features, Prompts(local_text=text))

    torch.manual_seed(0)
    system.train()
    try:
        seen = watch_dropout(system.coarse, run)
        assert len(seen) == 9
        for name, (dropped, factor) in seen.items():
            assert dropped == pytest.approx(0.1, abs=0.02), name
            assert factor == pytest.approx(1 / 0.9, rel=1e-3), name
        assert not torch.equal(run(), run())
        assert not watch_dropout(system.fine, run) and not watch_dropout(system.fuse, run)
        assert [block.self_attn.dropout for block in system.coarse.blocks] == [0.1] * 3
    finally:
        system.eval()
    assert torch.equal(run(), run())


def test_the_mixed_condition(system):
    """Specification 6.3: w·text + (1 − w)·visual, w uniform and each sample's own; no partner, text alone."""
    text, visual = drawn(400, 128), drawn(400, 128, seed=10)
    partner = torch.arange(400) % 4 > 0
    mixed = system.mix_conditions(text, visual, partner, torch.Generator().manual_seed(11))
    w = ((mixed - visual) / (text - visual)).median(1).values
    close(mixed, w[:, None] * text + (1 - w[:, None]) * visual, 1e-4)
    assert torch.equal(mixed[~partner], text[~partner])
    w = w[partner].sort().values
    assert (w - (torch.arange(300) + 0.5) / 300).abs().max() < 0.08  # Kolmogorov–Smirnov, p = 0.04


def test_one_visual_embedding_is_clips(system):
    """Projected class token, not normalised, of the picture standardised as ImageNet's."""
    image, s = drawn(2, 1, 96, 96), system.state_dict()
    close(system.encode_visual(image), clip_image_embedding(s, three_channels(image, *IMAGENET), 3))


def test_the_picture_of_a_lesion():
    """Specification 6.3: 10 % context, background blurred (σ = 3) and at a tenth, padded square, resized."""
    from scipy.ndimage import gaussian_filter

    from xbuslib.models.visual_prompt import visual_prompt

    image = drawn(60, 80)
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[20:40, 30:60] = True
    mask[25, 35] = False
    blurred = torch.tensor(gaussian_filter(image.numpy(), 3, mode="mirror", truncate=4))
    shown = torch.where(mask, image, 0.1 * blurred)[20 - 3:40 + 3, 30 - 3:60 + 3]  # a tenth of 30 on each side
    square = F.pad(shown, (0, 0, 5, 5))
    torch.testing.assert_close(visual_prompt(image, mask, 36)[0], square, rtol=1e-4, atol=1e-5)
