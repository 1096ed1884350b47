"""The recipes' losses by hand on a few pixels."""

import math

import pytest
import torch

from xbuslib.training import losses

BIG = 40.0  # sigmoid(±40) is 1 and 0


def pixels(*rows):
    return torch.tensor([[rows]], dtype=torch.float32)


HALF = pixels([BIG, BIG], [-BIG, -BIG])  # two pixels found, one of them right
MASK = torch.tensor([[[[True, False], [True, False]]]])
NOTHING = torch.zeros(1, 1, 2, 2, dtype=torch.bool)


def test_soft_dice():
    assert losses.soft_dice_loss(HALF, MASK).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 2 + 1))
    assert losses.soft_dice_loss(pixels([-BIG, -BIG], [-BIG, -BIG]), NOTHING).item() == pytest.approx(0)
    both = losses.soft_dice_loss(torch.cat([HALF, HALF]), torch.cat([MASK, MASK[..., [0, 0]]]))  # all four pixels
    assert both.item() == pytest.approx(1 - (3 / 5 + (2 * 2 + 1) / (2 + 4 + 1)) / 2)  # per image, then the mean


def test_released_dice_has_its_constant_inside_the_doubled_numerator():
    assert losses.released_dice_loss(HALF, MASK).item() == pytest.approx(1 - 2 * (1 + 1) / (2 + 2 + 1))
    assert losses.released_dice_loss(pixels([-BIG, -BIG], [-BIG, -BIG]), NOTHING).item() == pytest.approx(-1)


def test_cross_entropy_is_two_class_cross_entropy():
    logits = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    masks = logits > 0.3
    two = torch.nn.functional.cross_entropy(torch.cat([torch.zeros_like(logits), logits], dim=1), masks[:, 0].long())
    assert losses.cross_entropy_loss(logits, masks).item() == pytest.approx(two.item())
    assert losses.cross_entropy_dice_loss(logits, masks).item() == pytest.approx(
        two.item() + losses.soft_dice_loss(logits, masks).item())


def test_ukan():
    logits = pixels([0.0, 0.0], [0.0, 0.0])  # probability a half everywhere
    expected = 0.5 * math.log(2) + 1 - (2 * 1 + 1e-5) / (2 + 2 + 1e-5)
    assert losses.ukan_loss(logits, MASK).item() == pytest.approx(expected)


def test_bussam_weighs_lesion_pixels_twice_and_sums_over_the_batch():
    logits, masks = torch.zeros(2, 1, 2, 2), torch.cat([MASK, NOTHING])  # two lesion pixels of eight
    entropy = (2 * 2 + 6) * math.log(2) / 8
    dice = (2 * 2 * 0.5 + 1e-5) / (8 * 0.25 + 2 + 1e-5)
    assert losses.bussam_loss(logits, masks).item() == pytest.approx(0.2 * entropy + 0.8 * (1 - dice))


def test_mask_follows_smaller_logits():
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[..., 4:, :4] = True
    small = losses.at_size(masks, torch.zeros(1, 1, 4, 4))
    assert small.dtype == torch.bool and small[0, 0].nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    logits = torch.where(small, BIG, -BIG)
    for loss in (losses.soft_dice_loss, losses.cross_entropy_loss, losses.ukan_loss, losses.bussam_loss):
        assert loss(logits, masks).item() == pytest.approx(0, abs=1e-5)
    assert losses.at_size(masks, masks) is masks


@pytest.mark.parametrize("loss", [losses.soft_dice_loss, losses.released_dice_loss, losses.cross_entropy_dice_loss,
                                  losses.ukan_loss, losses.bussam_loss])
def test_half_precision_logits(loss):
    logits = HALF.bfloat16().requires_grad_()
    value = loss(logits / 40, MASK)
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(logits.grad).all() and (logits.grad != 0).any()
