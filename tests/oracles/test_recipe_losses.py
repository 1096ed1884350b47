"""The losses of the recipes by hand on small arrays: specification 9.2 and docs/protocol.md, "Training"."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from oracles.tiny import Halved, data_of, plan_of, train

LOGITS = torch.tensor([[2.0, -1.0, 0.5, -3.0], [0.0, 1.5, -2.5, 4.0]]).reshape(2, 1, 2, 2)
MASKS = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 1]]).bool().reshape(2, 1, 2, 2)


def pairs(logits=LOGITS, masks=MASKS):
    """Per image its list of (probability, label)."""
    return [[(1 / (1 + math.exp(-z)), int(y)) for z, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]
            for a, b in zip(logits, masks, strict=True)]


def cross_entropy(images, positive=1.0):
    terms = [-(positive * math.log(p) if y else math.log(1 - p)) for image in images for p, y in image]
    return sum(terms) / len(terms)


def dice_loss(images, constant=1.0, inside=False):
    """1 − mean (2I + s)/(P + G + s), or 1 − mean 2(I + s)/(P + G + s) with the constant inside."""
    shares = []
    for image in images:
        both, total = sum(p * y for p, y in image), sum(p + y for p, y in image)
        shares.append((2 * both + (2 if inside else 1) * constant) / (total + constant))
    return 1 - sum(shares) / len(shares)


def squared_dice_loss(images):
    pixels = list(chain(*images))
    both, total = sum(p * y for p, y in pixels), sum(p * p + y * y for p, y in pixels)
    return 1 - (2 * both + 1e-5) / (total + 1e-5)


LOSSES = [
    ("xbusnet", "uniform", lambda images: dice_loss(images)),
    ("xbusnet", "strong", lambda images: cross_entropy(images) + dice_loss(images)),
    ("ukan", "official", lambda images: 0.5 * cross_entropy(images) + dice_loss(images, 1e-5)),
    ("anatosegnet", "official", cross_entropy),
    ("bussam", "official", lambda images: 0.2 * cross_entropy(images, 2) + 0.8 * squared_dice_loss(images)),
    ("cliptnseg", "official", lambda images: dice_loss(images, inside=True)),
    ("xbusnet-released", "official", lambda images: dice_loss(images, inside=True)),
]


@pytest.mark.parametrize(("system", "recipe", "by_hand"), LOSSES)
def test_losses_by_hand(system, recipe, by_hand):
    """Specification 9.2; docs/protocol.md, "Training"."""
    loss = plan_of(system, recipe).loss
    assert loss(LOGITS, MASKS).item() == pytest.approx(by_hand(pairs()), abs=1e-6)
    none = torch.zeros_like(MASKS)
    assert loss(LOGITS, none).item() == pytest.approx(by_hand(pairs(masks=none)), abs=1e-6)


def test_an_empty_pair_costs_nothing_or_minus_one():
    """6.7: with the constant inside the doubled numerator an empty pair gives −1."""
    nothing, none = torch.full((1, 1, 2, 2), -40.0), torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    assert plan_of("unet", "uniform").loss(nothing, none).item() == pytest.approx(0, abs=1e-6)
    assert plan_of("cliptnseg", "official").loss(nothing, none).item() == pytest.approx(-1, abs=1e-6)


def test_official_losses_are_taken_at_the_systems_own_resolution():
    """5.6: on BUSSAM's small logits, against the mask by nearest neighbour; under the uniform recipe at full size."""
    for recipe, settings in (("official", {}), ("uniform", {})):
        system, plan = Halved(), plan_of("bussam", recipe, n=9, iterations=1, batch_size=4, **settings)
        history, batches, *_ = train(system, plan, n=9)
        data = data_of(9)
        image, mask = data.images[batches[0]].float() / 255, data.masks[batches[0]]
        logits = 0.7 * image - 0.2
        if recipe == "official":
            logits = logits[..., ::2, ::2] + 1
            small = [np.asarray(Image.fromarray(one[0].numpy().astype(np.uint8)).resize((2, 2), Image.NEAREST))
                     for one in mask]
            mask = torch.from_numpy(np.stack(small))[:, None].bool()
            wanted = 0.2 * cross_entropy(pairs(logits, mask), 2) + 0.8 * squared_dice_loss(pairs(logits, mask))
        else:
            wanted = dice_loss(pairs(logits, mask))
        assert history["loss"][0] == pytest.approx(wanted, abs=1e-6), recipe
