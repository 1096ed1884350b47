"""What every system of the registry must do: one abstract test that all of them inherit."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.models.system import Prompts, count
from xbuslib.prompts.conditioning import TextTable
from xbuslib.training.losses import soft_dice_loss

SIZE = 64
SYSTEMS = registry.names()

# Trained parameters in use, by the specification (specs: 31.04 M, 71.88 M, …); by hand in each system's own test.
PAPER_COUNTS = {
    "unet": 31_037_633, "uresnet": 71_882_625, "ukan": 6_356_689, "anatosegnet": 92_857_282, "bussam": 25_052_432,
    "cliptnseg": 8_663_201, "xbusnet": 142_990_561, "xbusnet-released": 141_406_241,
}
READS = {
    "unet": (), "uresnet": (), "ukan": (), "anatosegnet": (), "bussam": ("point",), "cliptnseg": ("local_text",),
    "xbusnet": ("global_text", "local_text"), "xbusnet-released": ("global_text", "local_text"),
    "xbusnet-no-lfe": ("global_text",), "xbusnet-no-gfe": ("local_text",), "xbusnet-no-sfa": ("global_text",),
    "xbusnet-no-lfe-no-sfa": ("global_text",),
}


@pytest.fixture(scope="module", params=SYSTEMS)
def named(request):
    """(name, system) at the quick size; module scope builds each once."""
    torch.manual_seed(0)
    return request.param, registry.build(request.param, resolve("quick", {"image_size": SIZE}))


def given(system, batch, seed=0):
    """(image, features, prompts) of a batch."""
    image = torch.rand(batch, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    texts = None
    if {"global_text", "local_text"} & set(system.prompts):
        texts = system.encode_texts([f"a lesion, BI-RADS {i}" for i in range(batch)])
    return image, system.encode_images(image), Prompts(texts, texts, torch.full((batch, 2), 0.4))


@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_at_odd_batch_sizes(named, batch):
    _, system = named
    with torch.no_grad():
        assert system.eval()(*given(system, batch)).shape == (batch, 1, SIZE, SIZE)


def test_logits_are_finite_in_half_precision(named):
    _, system = named
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert system.train()(*given(system, 2)).isfinite().all()


def test_gradients_reach_what_is_trained_and_nothing_else(named):
    _, system = named
    for module in system.modules():  # timm starts the last scale of each residual block at 0: nothing would pass
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    image, features, prompts = given(system, 2)
    target = image > 0.5
    soft_dice_loss(system.train()(image, features, prompts), target).backward()
    without = [name for name, p in system.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad is None for p in system.parameters() if not p.requires_grad)
    assert all(not getattr(system, name).training for name in system.frozen)
    system.zero_grad(set_to_none=True)


def test_weights_go_through_safetensors(named):
    name, system = named
    torch.manual_seed(0)
    other = registry.build(name, resolve("quick", {"image_size": SIZE}))  # same seed: same frozen encoders
    other.load_state_dict(load(save({k: v.contiguous() for k, v in system.trainable_state().items()})), strict=False)
    inputs = given(system, 2)
    with torch.no_grad():
        assert torch.equal(system.eval()(*inputs), other.eval()(*inputs))


def test_prompts_matter_where_they_should_and_nowhere_else(named):
    name, system = named
    reads = READS.get(name, tuple(system.prompts))  # a system of your own is not in the list
    assert tuple(system.prompts) == reads
    image, features, prompts = given(system.eval(), 2)
    with torch.no_grad():
        before = system(image, features, prompts)
        for field in Prompts._fields:
            value = getattr(prompts, field)
            if value is None:
                continue
            other = torch.full((2, 2), 0.9) if field == "point" else value.flip(0) * 3
            changed = not torch.equal(before, system(image, features, prompts._replace(**{field: other})))
            assert changed == (field in reads), field


def test_two_images_can_be_learned_by_heart(named):
    """Lesion Dice over 0.9 on two discs, in training mode as the loss sees it."""
    name, _ = named
    torch.manual_seed(1)
    system = registry.build(name, resolve("quick", {"image_size": SIZE})).train()
    y, x = np.mgrid[:SIZE, :SIZE]
    discs = [(x - cx) ** 2 + (y - cy) ** 2 < 14 ** 2 for cx, cy in ((20, 24), (40, 36))]
    masks = torch.tensor(np.stack(discs))[:, None]
    image = 0.6 * torch.rand(2, 1, SIZE, SIZE) + 0.3 * ~masks
    texts = system.encode_texts(["left", "right"]) if system.frozen and "point" not in system.prompts else None
    prompts = Prompts(texts, texts, torch.tensor([[20.5, 24.5], [40.5, 36.5]]) / SIZE)
    features = system.encode_images(image)
    # U-KAN's logits grow slowly under soft Dice: its authors give its KAN layers 1e-2 (specification 3.5)
    rate = 1e-2 if name == "ukan" else 2e-3
    optimiser = torch.optim.AdamW([p for p in system.parameters() if p.requires_grad], lr=rate)
    for _ in range(200):
        optimiser.zero_grad()
        logits = system(image, features, prompts)
        soft_dice_loss(logits, masks).backward()
        optimiser.step()
        hit = ((logits > 0) & masks).flatten(1).sum(1)
        dice = 2 * hit / ((logits > 0).flatten(1).sum(1) + masks.flatten(1).sum(1))
        if dice.min() > 0.9:
            return
    pytest.fail(f"Dice {dice.tolist()} after 200 steps")


def test_embedding_texts_at_once_or_one_by_one(named):
    _, system = named
    if not {"global_text", "local_text"} & set(system.prompts):
        with pytest.raises(NotImplementedError, match="reads no text"):
            system.encode_texts(["a"])
        return
    table = TextTable(system, torch.device("cpu"))
    torch.testing.assert_close(table(["b", "a", "b"])[0], system.encode_texts(["b"])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PAPER_COUNTS)
def test_parameter_counts_of_the_paper_profile(name):
    torch.manual_seed(0)
    trained, frozen = count(registry.build(name, resolve("paper", {"weights": "random"})))
    assert trained == PAPER_COUNTS[name]
    if name == "bussam":
        assert frozen == 93_670_448
    elif name in ("cliptnseg", "xbusnet", "xbusnet-released"):
        assert frozen == 149_620_737 + (22 ** 2 - 14 ** 2) * 768  # CLIP's positions at 352 instead of 224 pixels


def test_ablations_take_away_just_their_component():
    """Counts of the ablations from those of the parts of the full model."""
    build = lambda name: registry.build(name, resolve("quick"))  # noqa: E731
    full = build("xbusnet")
    parts = {name: count(module)[0] for name, module in full.named_children()}
    sfa = count(full.gfe.sfa)[0] + count(full.lfe.sfa)[0]
    # the fusion head sees 32, 16 or 48 channels in quick: GroupNorm, 3×3 and 1×1 of its first block shrink or vanish
    head = lambda width: 2 * width + width * 32 * 9 + (width * 32 + 32 if width != 32 else 0)  # noqa: E731
    expected = {"xbusnet-no-lfe": sum(parts.values()) - parts["lfe"] - head(48) + head(32),
                "xbusnet-no-gfe": sum(parts.values()) - parts["gfe"] - head(48) + head(16),
                "xbusnet-no-sfa": sum(parts.values()) - sfa,
                "xbusnet-no-lfe-no-sfa": sum(parts.values()) - parts["lfe"] - head(48) + head(32)
                - count(full.gfe.sfa)[0]}
    assert {name: count(build(name))[0] for name in expected} == expected


def test_non_square_sources_are_stretched_to_the_square(tmp_path):
    """A 30×90 source enters every system as a square; its lesion is found where it is."""
    from PIL import Image

    from xbuslib.data.images import decode

    mask = np.zeros((30, 90), np.uint8)
    mask[:15, 60:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    Image.fromarray(255 - mask).save(tmp_path / "i.png")
    case = decode(str(tmp_path / "i.png"), [str(tmp_path / "m.png")], 64)
    assert case["images"].shape == case["masks"].shape == (64, 64)
    assert case["masks"][:32, 43:].all() and not case["masks"][33:].any() and not case["masks"][:, :42].any()
    assert tuple(case["boxes"]) == (30, 15) and tuple(case["centroids"]) == (74.5, 7.0)
