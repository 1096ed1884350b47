"""BUSSAM: counts of the specification (5.5), and every part against a second way to compute it."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SamConfig, SamModel

from xbuslib.errors import StudyError
from xbuslib.models.bussam import BUSSAM
from xbuslib.models.bussam_parts import GHPA, CrossBranchAdapter
from xbuslib.models.sam import SAM, SHAPES, global_attention
from xbuslib.models.system import Prompts, count
from xbuslib.models.weights import load_weights


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def run(system: BUSSAM, image: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    return system(image, system.encode_images(image), Prompts(point=point))


@pytest.fixture(scope="module")
def quick() -> BUSSAM:
    torch.manual_seed(0)
    return BUSSAM("quick", "random", 128).eval()


@pytest.fixture(scope="module")
def full() -> BUSSAM:
    with torch.device("meta"):  # shapes and counts only
        return BUSSAM("paper", "random", 352)


# ---- counts and shapes -------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_specification(full):
    assert count(full) == (25_052_432, 93_670_448)
    assert sum(count(full)) == 118_722_880
    encoder_trained = parameters(full) - parameters(full.sam)
    assert parameters(full.sam.image_encoder) + encoder_trained == 114_658_320
    assert parameters(full.sam.prompt_encoder) == 6_220
    assert parameters(full.sam.mask_decoder) == 4_058_340


def test_trained_parts_are_those_of_the_specification(full):
    adapters = full.adapters.values()
    assert list(full.adapters) == ["2", "5", "8", "11"]
    assert sum(parameters(a.refine) for a in adapters) == 21_239_808
    assert sum(parameters(a.before) + parameters(a.beside) for a in adapters) == 2_367_760
    assert parameters(full.cnn) == 344_896
    assert parameters(full.position_adapter) == 771_840
    assert parameters(full.feature_adapter) == 295_872
    assert parameters(full.tables) == 32_256
    assert {tuple(table.shape) for table in full.tables.values()} == {(63, 64)}


def test_without_adapters_only_what_the_release_trains_is_left():
    with torch.device("meta"):
        assert count(BUSSAM("paper", "random", 352, adapters=False))[0] == 1_444_864


def test_full_size_embeds_32_by_32_patches_and_decodes_128_pixels(full):
    image = torch.rand(3, 1, 352, 352, device="meta")
    features = full.encode_images(image)
    assert features.shape == (3, 768, 32, 32)
    assert full(image, features, Prompts(point=torch.rand(3, 2, device="meta"))).shape == image.shape
    embedding, point = torch.empty(1, 256, 32, 32, device="meta"), torch.empty(1, 2, device="meta")
    assert full.sam.decode(embedding, point).shape == (1, 1, 128, 128)


def test_quick_is_small(quick):
    assert count(quick)[0] < 3_000_000


@pytest.mark.parametrize("batch, height, width", [(1, 64, 64), (3, 128, 128), (2, 100, 141)])
def test_logits_have_the_images_size(quick, batch, height, width):
    image = torch.rand(batch, 1, height, width).contiguous(memory_format=torch.channels_last)
    logits = run(quick, image, torch.rand(batch, 2))
    assert logits.shape == (batch, 1, height, width)
    assert logits.isfinite().all()


# ---- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapters", [True, False])
def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one(adapters):
    torch.manual_seed(1)
    system = BUSSAM("quick", "random", 64, adapters=adapters).train()
    run(system, torch.rand(2, 1, 64, 64), torch.rand(2, 2)).square().sum().backward()
    for name, parameter in system.named_parameters():
        if name.startswith("sam."):
            assert not parameter.requires_grad and parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sam_stays_in_eval_mode(quick):
    quick.train()
    assert not any(module.training for module in quick.sam.modules())
    assert quick.cnn.training
    quick.eval()


def test_half_precision_gives_nearly_the_same_logits(quick):
    image, point = torch.rand(2, 1, 96, 96), torch.rand(2, 2)
    with torch.no_grad():
        exact = run(quick, image, point)
        with torch.autocast("cpu", torch.bfloat16):
            half = run(quick, image, point).float()
    assert half.isfinite().all()
    assert (half - exact).abs().mean() < 0.1 * exact.std()


def test_saved_state_holds_all_that_is_trained_and_no_sam(quick, tmp_path):
    state = quick.trainable_state()
    assert sum(tensor.numel() for tensor in state.values()) == count(quick)[0]
    save_file(state, tmp_path / "weights.safetensors")
    torch.manual_seed(2)
    other = BUSSAM("quick", "random", 128).eval()
    other.sam.load_state_dict(quick.sam.state_dict())
    image, point = torch.rand(2, 1, 64, 64), torch.rand(2, 2)
    with torch.no_grad():
        assert not torch.allclose(run(other, image, point), run(quick, image, point))
        other.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=False)
        assert torch.equal(run(other, image, point), run(quick, image, point))


def test_random_sam_lets_the_signal_through(quick):
    with torch.no_grad():
        logits = run(quick, torch.rand(4, 1, 64, 64), torch.rand(4, 2))
    assert 0.3 < logits.std() < 30  # torch's own initialisation gives 0.01, and nothing could be learnt


# ---- the point ---------------------------------------------------------------------------------------------


def test_only_the_point_of_an_image_moves_its_logits(quick):
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        logits = run(quick, image, torch.tensor([[0.2, 0.3], [0.5, 0.5]]))
        moved = run(quick, image, torch.tensor([[0.8, 0.3], [0.5, 0.5]]))
    assert not torch.allclose(logits[0], moved[0])
    assert torch.allclose(logits[1], moved[1], atol=1e-5)


def test_point_embedding_is_the_sine_code_of_x_and_y_plus_the_positive_label(quick):
    encoder = quick.sam.prompt_encoder
    frequencies = encoder.shared_embedding.positional_embedding.double().numpy()  # (2, C/2): x first
    x, y = 0.25, 0.875
    angle = 2 * math.pi * ((2 * x - 1) * frequencies[0] + (2 * y - 1) * frequencies[1])
    positive = encoder.point_embed[1].weight[0].detach().numpy()
    expected = np.concatenate([np.sin(angle), np.cos(angle)]) + positive
    tokens = quick.sam.embed_points(torch.tensor([[x, y]]))
    np.testing.assert_allclose(tokens[0, 0].detach(), expected, atol=1e-4)
    assert torch.equal(tokens[0, 1], encoder.not_a_point_embed.weight[0])


def test_a_point_on_a_tokens_centre_has_that_tokens_code(quick):
    sam, row, column = quick.sam, 3, 10
    point = torch.tensor([[column + 0.5, row + 0.5]]) / sam.shape.grid
    code = sam.embed_points(point)[0, 0] - sam.prompt_encoder.point_embed[1].weight[0]
    distance = (sam._grid_positions()[0] - code[:, None, None]).norm(dim=0)  # (g, g)
    assert divmod(int(distance.argmin()), sam.shape.grid) == (row, column)
    assert distance.min() < 1e-4


def test_point_code_keeps_its_precision_under_autocast(quick):
    point = torch.rand(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        half = quick.sam.embed_points(point)
    assert torch.equal(half, quick.sam.embed_points(point))


# ---- attention ---------------------------------------------------------------------------------------------


def test_relative_positions_against_a_plain_loop(quick):
    attention = quick.sam.image_encoder.blocks[0].attn  # any block's projections
    height, width, heads = 3, 4, attention.num_heads
    torch.manual_seed(3)
    tokens = torch.randn(1, height, width, 96)
    table_h, table_w = torch.randn(2 * height - 1, 32), torch.randn(2 * width - 1, 32)
    with torch.no_grad():
        q, k, v = attention.qkv(tokens).reshape(height * width, 3, heads, 32).unbind(1)  # (N, heads, 32)
        mixed = torch.zeros(height * width, heads, 32)
        for head in range(heads):
            for i in range(height * width):
                scores = torch.zeros(height * width)
                for j in range(height * width):
                    rows, columns = i // width - j // width, i % width - j % width
                    bias = table_h[rows + height - 1] + table_w[columns + width - 1]
                    scores[j] = q[i, head] @ k[j, head] / math.sqrt(32) + q[i, head] @ bias
                mixed[i, head] = scores.softmax(0) @ v[:, head]
        expected = attention.proj(mixed.reshape(1, height, width, 96))
        got = global_attention(attention, tokens, table_h, table_w)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_tables_are_resized_by_linear_interpolation():
    sam = SAM("quick", "random")
    table = sam.image_encoder.blocks[2].attn.rel_pos_h
    with torch.no_grad():
        table.copy_(torch.randn_like(table))
    tables = sam.take_tables()
    assert set(tables) == {"2_h", "2_w", "5_h", "5_w"}
    old, new = len(table), len(tables["2_h"])
    assert (old, new) == (63, 31)
    at = (np.arange(new) + 0.5) * old / new - 0.5  # positions of the new entries among the old
    for channel in (0, 31):
        expected = np.interp(at, np.arange(old), table[:, channel].detach())
        np.testing.assert_allclose(tables["2_h"][:, channel].detach(), expected, atol=1e-5)
    assert not hasattr(sam.image_encoder.blocks[2].attn, "rel_pos_h")


# ---- GHPA and the cross-branch adapter ---------------------------------------------------------------------


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def layer_norm(x: np.ndarray) -> np.ndarray:
    """Over the channels of (C, H, W), without scale and shift."""
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6)


def pointwise(conv: nn.Module, x: np.ndarray) -> np.ndarray:
    weight = conv.weight.detach().numpy().reshape(conv.out_channels, -1)
    return np.einsum("oi,i...->o...", weight, x) + conv.bias.detach().numpy().reshape(-1, *[1] * (x.ndim - 1))


def depthwise(conv: nn.Module, x: np.ndarray) -> np.ndarray:
    """Size 3 with zeros around, on (C, L) or (C, H, W), by summing shifted copies."""
    weight = conv.weight.detach().numpy()[:, 0]
    padded = np.pad(x, [(0, 0)] + [(1, 1)] * (x.ndim - 1))
    out = np.zeros_like(x) + conv.bias.detach().numpy().reshape(-1, *[1] * (x.ndim - 1))
    for shift in np.ndindex(weight.shape[1:]):
        window = tuple(slice(s, s + n) for s, n in zip(shift, x.shape[1:], strict=True))
        out += weight[(slice(None), *shift)].reshape(-1, *[1] * (x.ndim - 1)) * padded[(slice(None), *window)]
    return out


def stretch(plane: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Linear interpolation along one axis with the ends fixed (align corners)."""
    at = np.linspace(0, plane.shape[axis] - 1, length)
    return np.apply_along_axis(lambda line: np.interp(at, np.arange(len(line)), line), axis, plane)


def test_ghpa_against_numpy():
    torch.manual_seed(4)
    ghpa = GHPA(8, 5)
    assert all((plane == 1).all() for plane in (ghpa.plane_hw, ghpa.plane_ch, ghpa.plane_cw))
    for plane in (ghpa.plane_hw, ghpa.plane_ch, ghpa.plane_cw):
        nn.init.normal_(plane)
    height, width = 5, 11
    features = torch.randn(1, 8, height, width)

    a, b, c, d = np.split(layer_norm(features[0].numpy()), 4)  # (2, H, W) each
    planes = (ghpa.plane_hw, ghpa.plane_ch, ghpa.plane_cw)
    plane_hw, plane_ch, plane_cw = (plane.detach().numpy()[0] for plane in planes)

    def conv(layers: nn.Sequential, x: np.ndarray) -> np.ndarray:
        return pointwise(layers[2], gelu(depthwise(layers[0], x)))

    a = a * conv(ghpa.conv_hw, stretch(stretch(plane_hw, height, 1), width, 2))
    b = b * conv(ghpa.conv_ch, stretch(plane_ch[0], height, 1))[:, :, None]
    c = c * conv(ghpa.conv_cw, stretch(plane_cw[0], width, 1))[:, None, :]
    d = depthwise(ghpa.local[2], gelu(pointwise(ghpa.local[0], d)))
    expected = conv(ghpa.mix, layer_norm(np.concatenate([a, b, c, d])))
    np.testing.assert_allclose(ghpa(features)[0].detach(), expected, atol=1e-4)


def test_cross_branch_adapter_weights_places_by_their_strength():
    adapter = CrossBranchAdapter(8)
    adapter.mlp = nn.Identity()
    nn.init.zeros_(adapter.spatial.weight)
    with torch.no_grad():
        adapter.spatial.weight[0, :, 3, 3] = torch.tensor([1.0, 2.0])  # centre of the kernel: max + 2·mean
    tokens, maps = torch.randn(2, 3, 4, 8), torch.randn(2, 8, 3, 4)
    both = tokens + maps.permute(0, 2, 3, 1)
    strength = torch.sigmoid(both.max(-1).values + 2 * both.mean(-1))
    torch.testing.assert_close(adapter(tokens, maps), both * strength[..., None])


# ---- weights -----------------------------------------------------------------------------------------------


def test_image_encoder_agrees_with_transformers_after_renaming():
    shape = SHAPES["quick"]
    torch.manual_seed(5)
    config = SamConfig(
        vision_config={"hidden_size": shape.width, "output_channels": shape.neck,
                       "image_size": 4 * shape.frame, "num_hidden_layers": shape.depth,
                       "num_attention_heads": shape.heads, "window_size": shape.window,
                       "global_attn_indexes": shape.global_blocks, "num_pos_feats": shape.neck // 2},
        prompt_encoder_config={"hidden_size": shape.neck},
        mask_decoder_config={"hidden_size": shape.neck, "num_attention_heads": shape.decoder_heads,
                             "mlp_dim": shape.decoder_mlp, "iou_head_hidden_dim": shape.neck})
    published = SamModel(config).eval()
    for parameter in published.parameters():  # its own initialisation has zeros, which hide mistakes
        nn.init.normal_(parameter, std=0.1)
    sam = SAM("quick", "random").eval()
    missing, unexpected = sam.load_state_dict(sam.rename(published.state_dict()), strict=False)
    assert (missing, unexpected) == ([], [])
    image = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        expected = published.vision_encoder(image).last_hidden_state
        torch.testing.assert_close(sam.image_encoder.forward_features(image), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("theirs, ours", [
    ("image_encoder.blocks.3.mlp.lin2.bias", "image_encoder.blocks.3.mlp.fc2.bias"),
    ("image_encoder.blocks.2.attn.rel_pos_w", "image_encoder.blocks.2.attn.rel_pos_w"),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
     "prompt_encoder.shared_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings.1.weight", "prompt_encoder.point_embed.1.weight"),
    ("prompt_encoder.mask_downscaling.4.weight", "prompt_encoder.mask_embed.layer_norm2.weight"),
    ("mask_decoder.transformer.layers.1.norm4.bias", "mask_decoder.transformer.layers.1.layer_norm4.bias"),
    ("mask_decoder.transformer.layers.0.mlp.lin1.bias", "mask_decoder.transformer.layers.0.mlp.lin1.bias"),
    ("mask_decoder.transformer.norm_final_attn.bias", "mask_decoder.transformer.layer_norm_final_attn.bias"),
    ("mask_decoder.output_upscaling.1.weight", "mask_decoder.upscale_layer_norm.weight"),
    ("mask_decoder.output_hypernetworks_mlps.3.layers.0.weight",
     "mask_decoder.output_hypernetworks_mlps.3.proj_in.weight"),
    ("mask_decoder.output_hypernetworks_mlps.3.layers.1.weight",
     "mask_decoder.output_hypernetworks_mlps.3.layers.0.weight"),
    ("mask_decoder.iou_prediction_head.layers.2.bias", "mask_decoder.iou_prediction_head.proj_out.bias"),
])
def test_names_of_metas_file(theirs, ours):
    sam = SAM("quick", "random")
    state = sam.rename({theirs: sam.state_dict()[ours], "image_encoder.pos_embed": torch.zeros(1)})
    assert ours in state


def test_a_partial_file_is_loaded_and_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    values = torch.randn(1, 64)
    torch.save({"image_encoder.neck.1.bias": torch.zeros(64), "mask_decoder.iou_token.weight": values},
               tmp_path / "sam_vit_b_01ec64.pth")
    sam = SAM("quick", "random")
    record = load_weights(sam, "sam", "partial")
    assert record["weights"] == "partial" and record["tensors_loaded"] == 2
    assert torch.equal(sam.mask_decoder.iou_token.weight, values)


def test_missing_weights_are_refused_with_the_file_to_fetch(tmp_path, monkeypatch):
    def offline(*_):
        raise OSError("no network")

    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(StudyError, match=r"sam_vit_b_01ec64\.pth"), torch.device("meta"):
        SAM("paper", "pretrained")
    with pytest.raises(StudyError, match="weights=random"):
        SAM("quick", "pretrained")
