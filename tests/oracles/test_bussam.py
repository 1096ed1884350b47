"""BUSSAM: SAM with a convolutional branch and adapters, the whole forward pass written a second time (specification 5).

SAM's own parts, which are frozen, follow its authors' code: decomposed relative positions, windows, two-way decoder.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.plain import attend, close, conv, group_norm, layer_norm, layer_norm_2d, linear, scramble, up_conv
from xbuslib.config import resolve
from xbuslib.data.images import Prepared
from xbuslib.models import registry
from xbuslib.models.bussam import BUSSAM
from xbuslib.models.sam import SAM
from xbuslib.models.system import Prompts
from xbuslib.prompts import words

# The small SAM of the library: 6 blocks of 3 heads, windows of 6, global attention in every third; decoder of 4 heads.
SIDE, BLOCKS, GLOBAL, HEADS, WINDOW, DECODER_HEADS = 128, 6, (2, 5), 3, 6, 4
IMAGE, PROMPT, DECODER = "sam.image_encoder", "sam.prompt_encoder", "sam.mask_decoder"


# ---- the convolutional branch (5.3) -------------------------------------------------------------------------


def ghpa(s: dict, name: str, x: Tensor) -> Tensor:
    """Four groups of channels: a plane over height and width, one over channels and height, one over channels and
    width, each resized and convolved before it multiplies its group; the fourth is convolved itself."""
    a, b, c, d = layer_norm_2d(s, f"{name}.norm_in", x).chunk(4, 1)
    channels, height, width = a.shape[1:]

    def resized(plane: Tensor, *size: int) -> Tensor:
        return F.interpolate(plane, size, mode="bilinear", align_corners=True)

    def line(kind: str, plane: Tensor) -> Tensor:
        """One-dimensional, along the second axis of a (1, 1, C, length) plane."""
        first, second = f"{name}.{kind}.0", f"{name}.{kind}.2"
        y = F.conv1d(plane[0], s[f"{first}.weight"], s[f"{first}.bias"], padding=1, groups=channels)
        return F.conv1d(F.gelu(y), s[f"{second}.weight"], s[f"{second}.bias"])[0]

    plane = resized(s[f"{name}.plane_hw"], height, width)
    plane = conv(s, f"{name}.conv_hw.2", F.gelu(conv(s, f"{name}.conv_hw.0", plane, padding=1, groups=channels)))
    a = a * plane
    b = b * line("conv_ch", resized(s[f"{name}.plane_ch"], channels, height))[None, :, :, None]
    c = c * line("conv_cw", resized(s[f"{name}.plane_cw"], channels, width))[None, :, None, :]
    d = conv(s, f"{name}.local.2", F.gelu(conv(s, f"{name}.local.0", d)), padding=1, groups=channels)
    x = layer_norm_2d(s, f"{name}.norm_out", torch.cat([a, b, c, d], 1))
    return conv(s, f"{name}.mix.2", F.gelu(conv(s, f"{name}.mix.0", x, padding=1, groups=4 * channels)))


def shrunk(s: dict, name: str, x: Tensor) -> Tensor:
    """Max-pooling, GHPA, GroupNorm in four groups, GELU."""
    return F.gelu(group_norm(s, f"{name}.2", ghpa(s, f"{name}.1", F.max_pool2d(x, 2)), 4))


def convolutional_branch(s: dict, x: Tensor) -> Tensor:
    x = F.gelu(layer_norm_2d(s, "cnn.1", conv(s, "cnn.0", x, padding=1)))
    x = F.gelu(layer_norm_2d(s, "cnn.5", conv(s, "cnn.4", F.max_pool2d(x, 2), padding=1)))
    return shrunk(s, "cnn.8", shrunk(s, "cnn.7", x))


# ---- the transformer (5.3) ----------------------------------------------------------------------------------


def cross_branch(s: dict, name: str, tokens: Tensor, maps: Tensor) -> Tensor:
    """Tokens (B, h, w, C) and the other branch's map (B, C, h, w): what the adapter adds to the tokens."""
    both = tokens.permute(0, 3, 1, 2) + maps
    seen = torch.stack([both.max(1).values, both.mean(1)], 1)
    both = both * conv(s, f"{name}.spatial", seen, padding=3).sigmoid()
    return linear(s, f"{name}.mlp.2", F.gelu(linear(s, f"{name}.mlp.0", both.permute(0, 2, 3, 1))))


def positions(q: Tensor, table: Tensor) -> Tensor:
    """(B, N, …, c) queries and a table of 2N − 1 offsets: for each query, its product with the entry of each key."""
    size = (len(table) + 1) // 2
    entries = torch.stack([torch.stack([table[i - j + size - 1] for j in range(size)]) for i in range(size)])
    return torch.einsum("bi...c,ijc->bi...j", q, entries)


def decomposed_attention(s: dict, name: str, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, h, w, C): logits q·k/√c plus the query's product with the tables of row and column offsets."""
    batch, height, width, channels = x.shape
    q, k, v = linear(s, f"{name}.qkv", x).chunk(3, -1)
    each, heads = channels // HEADS, []
    for h in range(HEADS):
        at = slice(h * each, (h + 1) * each)
        q_h, k_h, v_h = q[..., at], k[..., at].reshape(batch, -1, each), v[..., at].reshape(batch, -1, each)
        by_row = positions(q_h, rows)  # (B, h, w, rows of keys)
        by_column = positions(q_h.transpose(1, 2), columns).transpose(1, 2)  # (B, h, w, columns of keys)
        bias = (by_row[..., :, None] + by_column[..., None, :]).reshape(batch, height * width, -1)
        logits = q_h.reshape(batch, -1, each) @ k_h.transpose(1, 2) / each ** 0.5 + bias
        heads.append((logits.softmax(-1) @ v_h).view(batch, height, width, each))
    return linear(s, f"{name}.proj", torch.cat(heads, -1))


def windowed(s: dict, name: str, x: Tensor) -> Tensor:
    """The same in windows, of a map that zeros extend to whole windows below and on the right."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    out = torch.empty_like(x)
    for r in range(0, x.shape[1], WINDOW):
        for c in range(0, x.shape[2], WINDOW):
            part = x[:, r:r + WINDOW, c:c + WINDOW]
            out[:, r:r + WINDOW, c:c + WINDOW] = decomposed_attention(s, name, part, s[f"{name}.rel_pos_h"],
                                                                      s[f"{name}.rel_pos_w"])
    return out[:, :height, :width]


def image_embedding(s: dict, image: Tensor, adapters: bool = True) -> Tensor:
    """Both branches and the neck. The image is grey in [0, 1], with no mean taken away."""
    image = F.interpolate(image, (SIDE, SIDE), mode="bilinear").repeat(1, 3, 1, 1)
    cnn = convolutional_branch(s, image)
    larger = F.interpolate(image, (SIDE + 8, SIDE + 8), mode="bilinear")  # 264 for 256
    x = conv(s, f"{IMAGE}.patch_embed.proj", larger, stride=8).permute(0, 2, 3, 1)
    x = x + linear(s, "feature_adapter.2", F.gelu(linear(s, "feature_adapter.0", x)))
    place = ghpa(s, "position_adapter.1", F.max_pool2d(s[f"{IMAGE}.pos_embed"].permute(0, 3, 1, 2), 2))
    x = x + F.gelu(group_norm(s, "position_adapter.2", place, 4)).permute(0, 2, 3, 1)
    for i in range(BLOCKS):
        at, adapter = f"{IMAGE}.blocks.{i}", f"adapters.{i}"
        y = layer_norm(s, f"{at}.norm1", x, 1e-6)
        if i in GLOBAL and adapters:
            y = y + cross_branch(s, f"{adapter}.before", y, cnn)
            cnn = F.gelu(layer_norm_2d(s, f"{adapter}.refine.1", conv(s, f"{adapter}.refine.0", cnn, padding=1)))
        if i in GLOBAL:
            x = x + decomposed_attention(s, f"{at}.attn", y, s[f"tables.{i}_h"], s[f"tables.{i}_w"])
        else:
            x = x + windowed(s, f"{at}.attn", y)
        z = layer_norm(s, f"{at}.norm2", x, 1e-6)
        x = x + linear(s, f"{at}.mlp.fc2", F.gelu(linear(s, f"{at}.mlp.fc1", z)))
        if i in GLOBAL and adapters:
            x = x + 0.5 * cross_branch(s, f"{adapter}.beside", z, cnn)
    x = x.permute(0, 3, 1, 2) + 0.5 * cnn
    x = layer_norm_2d(s, f"{IMAGE}.neck.1", conv(s, f"{IMAGE}.neck.0", x))
    return layer_norm_2d(s, f"{IMAGE}.neck.3", conv(s, f"{IMAGE}.neck.2", x, padding=1))


# ---- prompt and decoder (5.4) -------------------------------------------------------------------------------


def place_code(s: dict, xy: Tensor) -> Tensor:
    """Places as fractions of the frame, in sines and cosines of random frequencies."""
    phase = 2 * torch.pi * (2 * xy - 1) @ s[f"{PROMPT}.shared_embedding.positional_embedding"]
    return torch.cat([phase.sin(), phase.cos()], -1)


def attention(s: dict, name: str, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (linear(s, f"{name}.{part}_proj", x) for part, x in zip("qkv", (q, k, v), strict=True))
    return linear(s, f"{name}.out_proj", attend(q, k, v, heads))


def two_way(s: dict, name: str, tokens: Tensor, keys: Tensor, codes: Tensor, places: Tensor, first: bool, heads: int):
    """Self-attention, tokens to image, MLP, image to tokens; the first layer's self-attention has no codes nor sum."""
    if first:
        tokens = attention(s, f"{name}.self_attn", tokens, tokens, tokens, heads)
    else:
        tokens = tokens + attention(s, f"{name}.self_attn", tokens + codes, tokens + codes, tokens, heads)
    tokens = layer_norm(s, f"{name}.layer_norm1", tokens, 1e-6)
    seen = attention(s, f"{name}.cross_attn_token_to_image", tokens + codes, keys + places, keys, heads)
    tokens = layer_norm(s, f"{name}.layer_norm2", tokens + seen, 1e-6)
    tokens = tokens + linear(s, f"{name}.mlp.lin2", linear(s, f"{name}.mlp.lin1", tokens).relu())
    tokens = layer_norm(s, f"{name}.layer_norm3", tokens, 1e-6)
    seen = attention(s, f"{name}.cross_attn_image_to_token", keys + places, tokens + codes, tokens, heads)
    return tokens, layer_norm(s, f"{name}.layer_norm4", keys + seen, 1e-6)


def decode(s: dict, embedding: Tensor, point: Tensor, heads: int = DECODER_HEADS) -> Tensor:
    """One positive point, one mask: token 0. Four times the embedding's resolution."""
    batch, _, height, width = embedding.shape
    point = place_code(s, point[:, None]) + s[f"{PROMPT}.point_embed.1.weight"]
    no_box = s[f"{PROMPT}.not_a_point_embed.weight"].expand(batch, 1, -1)
    own = torch.cat([s[f"{DECODER}.iou_token.weight"], s[f"{DECODER}.mask_tokens.weight"]])
    codes = torch.cat([own.expand(batch, -1, -1), point, no_box], 1)
    keys = embedding + s[f"{PROMPT}.no_mask_embed.weight"].view(1, -1, 1, 1)
    keys = keys.flatten(2).transpose(1, 2)
    rows, columns = ((torch.arange(n).to(point) + 0.5) / n for n in (height, width))
    places = place_code(s, torch.stack([columns.repeat(height), rows.repeat_interleave(width)], 1))
    tokens = codes
    for i in (0, 1):
        tokens, keys = two_way(s, f"{DECODER}.transformer.layers.{i}", tokens, keys, codes, places, i == 0, heads)
    last = attention(s, f"{DECODER}.transformer.final_attn_token_to_image", tokens + codes, keys + places, keys, heads)
    tokens = layer_norm(s, f"{DECODER}.transformer.layer_norm_final_attn", tokens + last)
    maps = keys.transpose(1, 2).reshape(batch, -1, height, width)
    maps = F.gelu(layer_norm_2d(s, f"{DECODER}.upscale_layer_norm", up_conv(s, f"{DECODER}.upscale_conv1", maps)))
    maps = F.gelu(up_conv(s, f"{DECODER}.upscale_conv2", maps))
    mlp = f"{DECODER}.output_hypernetworks_mlps.0"
    hyper = linear(s, f"{mlp}.layers.0", linear(s, f"{mlp}.proj_in", tokens[:, 1]).relu()).relu()
    return torch.einsum("bc,bchw->bhw", linear(s, f"{mlp}.proj_out", hyper), maps)[:, None]


def bussam(s: dict, image: Tensor, point: Tensor, adapters: bool = True) -> Tensor:
    mask = decode(s, image_embedding(s, image, adapters), point)
    mask = F.interpolate(mask, (SIDE, SIDE), mode="bilinear")
    return F.interpolate(mask, image.shape[2:], mode="bilinear")


def built(adapters: bool = True):
    """Position tables start at zero, where they would hide what they do."""
    torch.manual_seed(6)
    return scramble(BUSSAM("quick", "random", SIDE, adapters=adapters))


@pytest.fixture(scope="module")
def system():
    return built()


def inputs(size: int = SIDE) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    return torch.rand(2, 1, size, size, generator=draw), torch.rand(2, 2, generator=draw)


def called(system, image: Tensor, point: Tensor) -> Tensor:
    with torch.no_grad():
        return system(image, system.encode_images(image), Prompts(point=point))


# ---- the whole ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SIDE, 64])
def test_the_forward_pass_is_that_of_the_specification(system, size):
    """Works in its own frame whatever the image's size (5.8); in training too, for nothing is dropped."""
    image, point = inputs(size)
    with torch.no_grad():
        expected = bussam(system.state_dict(), image, point)
    close(called(system, image, point), expected)
    if size < SIDE:
        assert torch.equal(called(system.train(), image, point), called(system.eval(), image, point))


def test_the_registry_has_the_figures_network():
    with torch.device("meta"):
        assert list(registry.build("bussam", resolve("smoke")).adapters) == ["2", "5"]


def test_as_released_no_adapter_runs():
    system, (image, point) = built(adapters=False), inputs(64)
    with torch.no_grad():
        close(called(system, image, point), bussam(system.state_dict(), image, point, adapters=False))


def test_the_authors_loss_is_on_the_decoders_own_logits(system):
    """Half the frame's side: 128×128 logits for 256 (5.6)."""
    image, point = inputs()
    with torch.no_grad():
        found = system.training_logits(image, system.encode_images(image), Prompts(point=point))
        s = system.state_dict()
        close(found, decode(s, image_embedding(s, image), point))
    assert found.shape == (2, 1, SIDE // 2, SIDE // 2)


def test_what_is_frozen_is_the_patch_embedding_of_the_frame_a_little_enlarged(system):
    """264 pixels for 256, a patch of 16 every 8 (5.3), in three equal channels."""
    image, _ = inputs()
    larger = F.interpolate(image, (SIDE + 8, SIDE + 8), mode="bilinear").repeat(1, 3, 1, 1)
    close(system.encode_images(image), conv(system.state_dict(), f"{IMAGE}.patch_embed.proj", larger, stride=8))


# ---- tables and points --------------------------------------------------------------------------------------


def test_relative_positions_are_interpolated_to_half_the_grid():
    """From 4g − 1 to 2g − 1 entries, linearly between the centres of entries (5.3): 127 to 63 for ViT-B."""
    torch.manual_seed(0)
    sam = SAM("quick", "random")
    old = {}
    for i in GLOBAL:
        for axis in "hw":
            table = getattr(sam.image_encoder.blocks[i].attn, f"rel_pos_{axis}")
            old[f"{i}_{axis}"] = torch.randn(table.shape)
            with torch.no_grad():
                table.copy_(old[f"{i}_{axis}"])
    new = sam.take_tables()
    assert set(new) == set(old)
    before, after = 4 * SIDE // 8 - 1, 2 * SIDE // 8 - 1
    at = ((np.arange(after) + 0.5) * before / after - 0.5).clip(0, before - 1)
    for name, table in old.items():
        expected = np.stack([np.interp(at, np.arange(before), column) for column in table.T.numpy()], 1)
        assert table.shape[0] == before and new[name].requires_grad
        np.testing.assert_allclose(new[name].detach(), expected, atol=5e-5)  # places in single precision


def test_what_is_trained(system):
    """5.3: adapters, the convolutional branch, the global blocks' tables; nothing of SAM itself, its neck included."""
    trained = {name.split(".")[0] for name, parameter in system.named_parameters() if parameter.requires_grad}
    assert trained == {"tables", "feature_adapter", "position_adapter", "cnn", "adapters"}
    assert not any(p.requires_grad for p in system.sam.parameters())


@pytest.mark.parametrize("x, y", [(0, 0), (SIDE - 1, 5), (40, 90)])
def test_a_pixel_is_meant_at_its_centre(system, x, y):
    """SAM's prompt encoder adds 0.5 to a pixel's place; a prompt here is a share of the frame (5.8)."""
    point = torch.tensor([[(x + 0.5) / SIDE, (y + 0.5) / SIDE]])
    s = system.state_dict()
    code = place_code(s, (torch.tensor([[float(x), float(y)]]) + 0.5) / SIDE) + s[f"{PROMPT}.point_embed.1.weight"]
    with torch.no_grad():
        found = system.sam.embed_points(point)
    close(found, torch.stack([code, s[f"{PROMPT}.not_a_point_embed.weight"]], 1))


def test_the_reference_point_is_the_middle_one_of_the_lesions_pixels():
    """In raster order (5.4), at its centre: here the 6th of 11 pixels, in a lesion that is hollow at its centroid."""
    mask = np.zeros((1, 8, 16), bool)
    mask[0, 2, 3:7] = mask[0, 3, 3] = mask[0, 3, 6] = mask[0, 4, 3:7] = mask[0, 5, 3] = True
    prepared = Prepared(case_ids=np.array(["a"]), images=np.zeros((1, 8, 16), np.uint8), masks=mask,
                        original_sizes=np.array([[160, 80]]), long_sides=np.array([40]), boxes=np.array([[40, 40]]),
                        centroids=np.array([[45.0, 30.0]]), contour_centroids=np.array([[45.0, 30.0]]), fingerprint="")
    x, y = words.from_reference(prepared, 0).inside
    assert (x, y) == ((6 + 0.5) / 16, (3 + 0.5) / 16)


# ---- the full size ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full():
    with torch.device("meta"):
        return BUSSAM("paper", "random", 352)


def test_the_full_encoder_is_sams(full):
    """5.3: twelve blocks of twelve heads, windows of 14 but for blocks 2, 5, 8 and 11; layer norms with 1e-6."""
    blocks, s = full.sam.image_encoder.blocks, full.state_dict()
    assert len(blocks) == 12 and list(full.adapters) == ["2", "5", "8", "11"]
    for i, block in enumerate(blocks):
        assert block.attn.num_heads == 12 and block.norm1.eps == block.norm2.eps == 1e-6
        assert block.window_size == (0 if i in (2, 5, 8, 11) else 14)
        table = s.get(f"{IMAGE}.blocks.{i}.attn.rel_pos_h", s.get(f"tables.{i}_h"))
        assert table.shape == ((63, 64) if i in (2, 5, 8, 11) else (27, 64))
    assert [s[f"cnn.{layer}.weight"].shape[0] for layer in (0, 4)] == [64, 128]
    assert s["cnn.7.1.mix.2.weight"].shape[0] == 256 and s["cnn.8.1.mix.2.weight"].shape[0] == 768


def test_the_full_decoder_by_its_numbers(full):
    """5.4: SAM's decoder, of eight heads, at 32×32; random numbers of the sizes that keep what passes through alive."""
    sam = copy.deepcopy(full.sam)
    draw = torch.Generator().manual_seed(8)
    for part in (sam.prompt_encoder, sam.mask_decoder):
        part.to_empty(device="cpu")
        for name, value in part.state_dict().items():
            table = "embed" in name or name.endswith(("tokens.weight", "iou_token.weight"))
            fan_in = value[0].numel() if value.ndim > 1 and not table else 1
            value.copy_(torch.randn(value.shape, generator=draw) / fan_in ** 0.5)
            if value.ndim == 1:
                value.mul_(0.1).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    s = {f"sam.{name}": value for name, value in sam.state_dict().items() if not value.is_meta}
    embedding, point = torch.randn(2, 256, 32, 32, generator=draw), torch.rand(2, 2, generator=draw)
    with torch.no_grad():
        close(sam.decode(embedding, point), decode(s, embedding, point, heads=8))
