"""XBusNet: equations (2) to (17) of the paper, written a second time and held against the whole network."""

import pytest
import torch
from torch import Tensor

from oracles.plain import (
    IMAGENET,
    clip_vision,
    close,
    conv,
    grid,
    layer_norm,
    linear,
    post_norm_layer,
    residual_block,
    resnet,
    resnet_stage,
    scramble,
    self_attention,
    three_channels,
    tokens,
    up_block,
    up_conv,
    watch_dropout,
)
from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts

CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # what CLIP was trained with
LAYERS = (3, 7, 9)  # the set of eq. (6), blocks counted from 0
CLIP_HEADS = {"paper": 12, "quick": 3}
ABLATIONS = {  # Table 4: local branch, global branch, SFA
    "xbusnet": (True, True, True),
    "xbusnet-no-lfe": (False, True, True),
    "xbusnet-no-gfe": (True, False, True),
    "xbusnet-no-sfa": (True, True, False),
    "xbusnet-no-lfe-no-sfa": (False, True, False),
}


# ---- the equations ------------------------------------------------------------------------------------------


def sfa(s: dict, name: str, f: Tensor, e: Tensor) -> Tensor:
    """Equations (13) to (15): z = MLP(e) is split into γ and β; γ ⊙ F + β, and F once more."""
    z = linear(s, f"{name}.mlp.2", linear(s, f"{name}.mlp.0", e).relu())
    channels = f.shape[1]
    gamma, beta = z[:, :channels, None, None], z[:, channels:, None, None]
    return gamma * f + beta + f


def global_branch(s: dict, image: Tensor, e: Tensor, with_sfa: bool, clip_heads: int) -> Tensor:
    """Equations (6) to (8), then (3)."""
    z = clip_vision(s, three_channels(image, *CLIP), clip_heads)
    a = sum(linear(s, f"gfe.reduce.{i}", z[j][:, 1:, :]) for i, j in enumerate(LAYERS))  # (6)
    c = linear(s, "gfe.condition", e)
    a = linear(s, "gfe.multiply", c)[:, None, :] * a + linear(s, "gfe.add", c)[:, None, :]  # (7)
    f = up_conv(s, "gfe.project", grid(a, image.shape[2] // 16, image.shape[3] // 16), 16)  # (8)
    return sfa(s, "gfe.sfa", f, e) if with_sfa else f  # (3)


def transformer(s: dict, name: str, f: Tensor) -> Tensor:
    """TrEnc of eq. (10): one post-norm layer of eight heads on the map's positions, row after row."""
    return grid(post_norm_layer(s, f"{name}.layer", tokens(f), 8), *f.shape[2:])


def local_branch(s: dict, image: Tensor, e: Tensor, with_sfa: bool, training: bool = False) -> Tensor:
    """Equations (10) to (12). What SFA made of enc4 goes on to the bottleneck and is the decoder's first skip."""
    def adjusted(place: str, f: Tensor) -> Tensor:
        return sfa(s, f"lfe.sfa.{place}", f, e) if with_sfa else f

    enc1, enc2, enc3, enc4, _ = resnet(s, "lfe.encoder", three_channels(image, *IMAGENET), training)
    enc4 = adjusted("enc4", transformer(s, "lfe.block4", enc4))
    enc5 = resnet_stage(s, "lfe.encoder.layer4", enc4, 2, training)
    center = transformer(s, "lfe.block5", enc5)
    dec4 = adjusted("dec4", up_block(s, "lfe.up4", center, enc4, training))
    dec3 = adjusted("dec3", up_block(s, "lfe.up3", dec4, enc3, training))
    dec2 = adjusted("dec2", up_block(s, "lfe.up2", dec3, enc2, training))
    dec1 = up_block(s, "lfe.up1", dec2, enc1, training)
    return up_conv(s, "lfe.final", dec1)


def xbusnet(s: dict, name: str, image: Tensor, e_c: Tensor, e_l: Tensor, size: str = "quick",
            training: bool = False) -> dict[str, Tensor]:
    """Equations (2), (4), (5), (16) and (17); the global map comes first in the concatenation."""
    with_lfe, with_gfe, with_sfa = ABLATIONS[name]
    maps = {}
    if with_gfe:
        maps["gfe"] = global_branch(s, image, e_c, with_sfa, CLIP_HEADS[size])
    if with_lfe:
        maps["lfe"] = local_branch(s, image, e_l, with_sfa, training)
    f = torch.cat(list(maps.values()), 1)  # (16)
    maps["fuse.0"] = residual_block(s, "fuse.0", f, 8)
    maps["fuse.1"] = residual_block(s, "fuse.1", maps["fuse.0"], 8)
    return maps | {"logits": conv(s, "head", maps["fuse.1"])}  # (17)


# ---- held against the library -------------------------------------------------------------------------------


def built(name: str = "xbusnet", size: str = "quick", **settings):
    torch.manual_seed(30)
    system = registry.build(name, resolve("smoke", {"size": size, "image_size": 96, **settings}))
    return scramble(system)


@pytest.fixture(scope="module")
def system():
    return built()


def drawn(*shape: int, seed: int = 21) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


IMAGE, E_C, E_L = drawn(2, 1, 96, 96), 2 * drawn(2, 128, seed=22) - 1, 2 * drawn(2, 128, seed=23) - 1


def maps_of(system, image: Tensor, e_c: Tensor, e_l: Tensor) -> dict[str, Tensor]:
    """The library's maps at the places where the equations name one."""
    found, hooks = {}, []
    for name in ("gfe", "lfe", "fuse.0", "fuse.1"):
        part = dict(system.named_modules()).get(name)
        if part is not None:
            hooks.append(part.register_forward_hook(lambda _, given, out, name=name: found.update({name: out})))
    with torch.no_grad():
        found["logits"] = system(image, system.encode_images(image), Prompts(e_c, e_l))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_map_is_that_of_the_equations(name):
    """Equations (2) to (17), and what is left of them in each row of Table 4."""
    system = built(name)
    found, expected = maps_of(system, IMAGE, E_C, E_L), xbusnet(system.state_dict(), name, IMAGE, E_C, E_L)
    assert set(found) == set(expected)
    for place, value in expected.items():
        close(found[place], value)
    assert found["logits"].shape == (2, 1, 96, 96)


def test_each_prompt_goes_to_its_own_branch(system):
    """Equation (2): F_g = GFE(I, p_c) and F_l = LFE(I, p_l)."""
    before = maps_of(system, IMAGE, E_C, E_L)
    other_c, other_l = maps_of(system, IMAGE, -E_C, E_L), maps_of(system, IMAGE, E_C, -E_L)
    assert torch.equal(before["lfe"], other_c["lfe"]) and not torch.equal(before["gfe"], other_c["gfe"])
    assert torch.equal(before["gfe"], other_l["gfe"]) and not torch.equal(before["lfe"], other_l["lfe"])


@pytest.mark.parametrize("place", ["enc4", "dec4", "dec3", "dec2"])
def test_sfa_stands_where_equation_11_puts_it(system, place):
    """With the prompt's part of one SFA set to γ = −1 and β = 0, all that passes through it is 0 (eq. 15)."""
    s = {key: value.clone() for key, value in system.state_dict().items()}
    last = f"lfe.sfa.{place}.mlp.2"
    s[f"{last}.weight"].zero_()
    width = len(s[f"{last}.bias"]) // 2
    s[f"{last}.bias"] = torch.cat([-torch.ones(width), torch.zeros(width)])
    changed = built()
    changed.load_state_dict(s)
    expected = local_branch(s, IMAGE, E_L, True)
    close(maps_of(changed, IMAGE, E_C, E_L)["lfe"], expected)
    assert not torch.allclose(expected, maps_of(system, IMAGE, E_C, E_L)["lfe"], rtol=1e-2)


def test_the_frozen_tokens_are_those_of_blocks_3_7_and_9(system):
    """Equation (6): Z^(j), with CLIP's own statistics and QuickGELU; the class token is removed, here or later."""
    found = system.encode_images(IMAGE)
    z = clip_vision(system.state_dict(), three_channels(IMAGE, *CLIP), 3)
    expected = torch.stack([z[j] for j in LAYERS], 1)
    close(found, expected[:, :, expected.shape[2] - found.shape[2]:])


def test_the_text_embedding(system):
    """Equation (9): CLIP's text encoder, causal, read at the end of the text, projected, not normalised."""
    texts = ["irregular shape, microlobulated margin, BI-RADS 4", "a small lesion"]
    s, at = system.state_dict(), "clip.model"
    ids = system.clip.tokenise(texts)
    assert ids.shape == (2, 77)
    x = s[f"{at}.token_embedding.weight"][ids] + s[f"{at}.positional_embedding"]
    ahead = torch.full((77, 77), float("-inf")).triu(1)
    for i in range(12):
        block = f"{at}.transformer.resblocks.{i}"
        x = x + self_attention(s, f"{block}.attn", layer_norm(s, f"{block}.ln_1", x), 4, ahead)
        y = linear(s, f"{block}.mlp.c_fc", layer_norm(s, f"{block}.ln_2", x))
        x = x + linear(s, f"{block}.mlp.c_proj", y * (1.702 * y).sigmoid())
    last = torch.stack([x[i, ids[i].tolist().index(49407)] for i in range(2)])  # the token that ends a text
    close(system.encode_texts(texts), layer_norm(s, f"{at}.ln_final", last) @ s[f"{at}.text_projection"])


# ---- in training --------------------------------------------------------------------------------------------


def test_a_tenth_is_dropped_in_both_transformer_blocks(system):
    """In training: after attention, inside and after the feed-forward network, and in the attention itself; in
    no other place. The frozen encoders drop nothing."""
    image, e = drawn(4, 1, 96, 96), drawn(4, 128)

    def run():
        with torch.no_grad():
            return system(image, system.encode_images(image), Prompts(e, e))

    torch.manual_seed(0)
    system.train()
    try:
        seen = watch_dropout(system, run)
        assert len(seen) == 6 and all(name.startswith(("lfe.block4.", "lfe.block5.")) for name in seen)
        for name, (dropped, factor) in seen.items():
            assert dropped == pytest.approx(0.1, abs=0.02), name
            assert factor == pytest.approx(1 / 0.9, rel=1e-3), name
        for block in (system.lfe.block4, system.lfe.block5):
            assert block.layer.self_attn.dropout == 0.1
        assert not torch.equal(run(), run())
    finally:
        system.eval()
    assert torch.equal(run(), run())


def without_dropout(system):
    for part in system.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if isinstance(part, torch.nn.MultiheadAttention):
            part.dropout = 0.0
    return system


def test_training_differs_in_dropout_and_in_batch_norm_alone():
    """Without its dropout, a pass in training is that of the equations with each batch's own statistics."""
    system = without_dropout(built().train())
    s = {key: value.clone() for key, value in system.state_dict().items()}
    image, e_c, e_l = drawn(3, 1, 96, 96), 2 * drawn(3, 128, seed=24) - 1, 2 * drawn(3, 128, seed=25) - 1
    expected = xbusnet(s, "xbusnet", image, e_c, e_l, training=True)
    found = maps_of(system, image, e_c, e_l)
    for place in expected:
        close(found[place], expected[place], 5e-5)
    x = conv(s, "lfe.encoder.conv1", three_channels(image, *IMAGENET), stride=2, padding=3)
    kept = 0.9 * s["lfe.encoder.bn1.running_mean"] + 0.1 * x.mean((0, 2, 3))
    close(system.state_dict()["lfe.encoder.bn1.running_mean"], kept)


@pytest.mark.parametrize("recompute", [False, True])
def test_only_the_frozen_encoders_get_no_gradient(recompute):
    """Sections 2.5 and 2.7: CLIP is frozen; reduction, conditioning, projection and all of the LFE are trained. What
    the fusion head computes again for the backward pass changes neither logits nor gradients."""
    system = without_dropout(built(recompute=recompute).train())
    s = {key: value.clone().requires_grad_(value.is_floating_point() and not key.startswith("clip"))
         for key, value in system.state_dict().items()}
    logits = system(IMAGE, system.encode_images(IMAGE), Prompts(E_C, E_L))
    (logits ** 2).mean().backward()
    expected = xbusnet(s, "xbusnet", IMAGE, E_C, E_L, training=True)["logits"]
    close(logits.detach(), expected.detach(), 5e-5)
    (expected ** 2).mean().backward()
    for name, value in system.named_parameters():
        assert (value.grad is None) == name.startswith("clip."), name
    assert not any(part.training for part in system.clip.modules())
    assert set(system.trainable_state()) == {key for key in s if not key.startswith("clip.")}  # what a run must save
    for name in ("head.weight", "fuse.0.skip.weight", "fuse.1.body.5.weight", "gfe.reduce.1.weight",
                 "gfe.condition.weight", "lfe.sfa.dec2.mlp.0.weight", "lfe.final.weight"):
        close(system.get_parameter(name).grad, s[name].grad, 1e-3)


# ---- the paper's size ---------------------------------------------------------------------------------------


def test_the_whole_pass_in_the_papers_size():
    """There the encoder is a ResNet-50, and CLIP's vision transformer has twelve heads."""
    system = built(size="paper")
    e_c, e_l = 2 * drawn(2, 512, seed=22) - 1, 2 * drawn(2, 512, seed=23) - 1
    found = maps_of(system, IMAGE, e_c, e_l)
    for place, value in xbusnet(system.state_dict(), "xbusnet", IMAGE, e_c, e_l, "paper").items():
        close(found[place], value)


def test_widths_of_the_papers_size():
    """Widths of equations (6) to (8), (12), (14) and (16), by their shapes; eight heads, eight groups."""
    with torch.device("meta"):
        system = registry.build("xbusnet", resolve("smoke", {"size": "paper", "image_size": 352}))
        ablated = {name: registry.build(name, resolve("smoke", {"size": "paper", "image_size": 352})).state_dict()
                   for name in ABLATIONS}
    s = ablated["xbusnet"]
    assert [tuple(s[f"gfe.reduce.{i}.weight"].shape) for i in range(3)] == [(64, 768)] * 3
    assert s["gfe.condition.weight"].shape == (512, 512) and s["gfe.multiply.weight"].shape == (64, 512)
    assert s["gfe.project.weight"].shape == (64, 64, 16, 16)
    assert s["clip.model.visual.positional_embedding"].shape == (1 + 22 * 22, 768)
    assert s["lfe.final.weight"].shape == (64, 32, 2, 2)
    hidden = {"lfe.sfa.enc4": (1024, 1024), "lfe.sfa.dec4": (1024, 1024), "lfe.sfa.dec3": (512, 512),
              "lfe.sfa.dec2": (256, 256), "gfe.sfa": (64, 256)}  # C, max(256, C)
    for place, (channels, width) in hidden.items():
        assert s[f"{place}.mlp.0.weight"].shape == (width, 512) and s[f"{place}.mlp.2.weight"].shape[0] == 2 * channels
    for block, width in (("block4", 1024), ("block5", 2048)):
        assert s[f"lfe.{block}.layer.linear1.weight"].shape == (4 * width, width)
        assert system.lfe.get_submodule(block).layer.self_attn.num_heads == 8
    assert [block.body[i].num_groups for block in system.fuse for i in (0, 3)] == [8] * 4
    into = {name: tuple(t["fuse.0.body.2.weight"].shape[:2]) for name, t in ablated.items()}
    assert into == {"xbusnet": (64, 96), "xbusnet-no-lfe": (64, 64), "xbusnet-no-gfe": (64, 32),
                    "xbusnet-no-sfa": (64, 96), "xbusnet-no-lfe-no-sfa": (64, 64)}
    for name, t in ablated.items():
        assert any(".sfa" in key for key in t) == ABLATIONS[name][2], name
