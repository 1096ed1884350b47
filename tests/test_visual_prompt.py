"""The picture of a lesion that CLIP-TNseg and the released XBusNet mix into their condition."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from xbuslib.models.visual_prompt import draw_weights, mix, visual_prompt


def box_mask(height: int, width: int, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def test_lesion_keeps_its_brightness_and_the_rest_is_blurred_and_dark():
    image = torch.rand(80, 90, generator=torch.Generator().manual_seed(0))
    mask = box_mask(80, 90, 30, 50, 40, 60)
    mask[35, 45] = False  # a hole is background too
    prompt = visual_prompt(image, mask, 24)  # box of 20 and 2 around it: 24 pixels, so no resizing
    blurred = 0.1 * gaussian_filter(image.numpy(), 3.0, mode="mirror", truncate=4.0)
    expected = np.where(mask, image, blurred)[28:52, 38:62]
    assert prompt.shape == (1, 24, 24)
    np.testing.assert_allclose(prompt[0], expected, atol=1e-5)


def test_crop_is_padded_to_a_square_with_the_lesion_in_its_middle():
    prompt = visual_prompt(torch.ones(100, 100), box_mask(100, 100, 45, 55, 20, 60), 48)[0]
    assert prompt.shape == (48, 48)  # 40 wide and 4 on both sides, 10 high
    lesion = prompt == 1
    assert lesion.sum() == 400 and lesion[19:29, 4:44].all()
    assert (prompt[:15] == 0).all() and (prompt[-15:] == 0).all()  # black above and below the crop
    assert torch.allclose(prompt[15:19], torch.tensor(0.1))  # context


def test_crop_stops_at_the_frame():
    prompt = visual_prompt(torch.ones(60, 60), box_mask(60, 60, 0, 20, 0, 20), 22)[0]
    assert (prompt[:20, :20] == 1).all()
    assert (prompt[20:] < 0.2).all() and (prompt[:, 20:] < 0.2).all()


def test_size_is_the_systems():
    assert visual_prompt(torch.rand(70, 50), box_mask(70, 50, 10, 15, 10, 40), 64).shape == (1, 64, 64)


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="mask is empty"):
        visual_prompt(torch.rand(40, 40), torch.zeros(40, 40, dtype=torch.bool), 32)


def test_weights_are_uniform_and_repeatable():
    like = torch.zeros(4000, 3)
    weights = draw_weights(like, torch.Generator().manual_seed(1))
    assert torch.equal(weights, draw_weights(like, torch.Generator().manual_seed(1)))
    assert weights.min() >= 0 and weights.max() <= 1
    assert abs(weights.mean() - 0.5) < 0.02 and abs(weights.var() - 1 / 12) < 0.01


def test_mix_goes_from_picture_to_text():
    text, visual = torch.full((3, 2), 4.0), torch.zeros(3, 2)
    assert mix(text, visual, torch.tensor([0.0, 0.25, 1.0]))[:, 0].tolist() == [0.0, 1.0, 4.0]
