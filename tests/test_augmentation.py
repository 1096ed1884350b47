"""Augmentation: image and mask stay together, the prompts follow, and the draws are torch's."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xbuslib.config import resolve
from xbuslib.data.images import Prepared, bounding_box, centroid, contour_centroid
from xbuslib.models.system import System
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import TrainingPrompts
from xbuslib.training import augmentation, loop, recipes

METHODS = [augmentation.strong, augmentation.quarter_turns_and_flips, augmentation.flips_or_small_turns,
           augmentation.gamma_turn_scale_contrast, augmentation.lesion_aware_square]
SIDE = 64


def sample():
    """An image that is bright just where its mask is, off centre and asymmetric."""
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 12:30, 8:32] = True
    mask[:, 24:30, 8:20] = False
    return torch.where(mask, 0.8, 0.2), mask


@pytest.mark.parametrize("method", METHODS)
def test_image_and_mask_move_together(method):
    """The painted lesion and the mask still cover each other, up to a rim of interpolated pixels."""
    torch.manual_seed(0)
    moved = 0
    for _ in range(40):
        image, mask = sample()
        new, where = method(image, mask, (500, 400))
        assert new.shape == image.shape and where.shape == mask.shape and where.dtype == torch.bool
        assert type(new) is torch.Tensor and new.min() >= 0 and new.max() <= 1
        bright = new > (new[where].median() + new[~where & (new > 0)].median()) / 2  # halfway, whatever the contrast
        assert (bright & where).sum() * 2 / (bright.sum() + where.sum()) > 0.93
        moved += not torch.equal(where, mask)
    assert moved >= 10


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_result(method):
    images, masks = (torch.stack([part] * 3) for part in sample())
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(augmentation.augment(method, images, masks, torch.tensor([[500, 400]] * 3)))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_strong_never_turns_a_lesion_over_and_stays_within_its_ranges():
    torch.manual_seed(0)
    areas, left = [], 0
    for _ in range(60):
        image, mask = sample()
        _, where = augmentation.strong(image, mask, (500, 400))
        y = centroid(where[0].numpy())[1]
        assert y < 0.6 * SIDE  # the lesion was in the upper half: a vertical flip would send it to 0.67
        areas.append(where.sum().item() / mask.sum().item())
        left += centroid(where[0].numpy())[0] < SIDE / 2
    assert min(areas) > 0.8**2 - 0.1 and max(areas) < 1.25**2 + 0.1
    assert 15 < left < 45  # mirrored about half of the time


def mean_after(method, low, high, n=200):
    """Lowest and highest mean grey of a plain image of 0.4 after n draws, and how far these fill low … high."""
    torch.manual_seed(0)
    means = [method(torch.full((1, 16, 16), 0.4), torch.zeros(1, 16, 16, dtype=torch.bool), (16, 16))[0].mean().item()
             for _ in range(n)]
    return min(means), max(means), (max(means) - min(means)) / (high - low)


def test_gain_and_gamma_of_strong_fill_their_ranges(monkeypatch):
    """Gain 0.7 to 1.3 and gamma 0.7 to 1.5 (docs/recipes.md) on a grey level of 0.4; the turn brings in black."""
    monkeypatch.setattr(augmentation, "STRONG", lambda both: both)
    darkest, brightest = (0.7 * 0.4)**1.5, (1.3 * 0.4)**0.7
    low, high, filled = mean_after(augmentation.strong, darkest, brightest)
    assert darkest - 1e-6 <= low and high <= brightest + 1e-6 and filled > 0.9


def test_gamma_and_contrast_of_bussam_fill_their_ranges(monkeypatch):
    """Exponents 1/1.0 to 1/2.4 (specification 5.6); contrast 0.8 to 2.0 changes a bright half of an image."""
    monkeypatch.setattr(augmentation, "_together", lambda transform, image, mask: (image, mask))
    monkeypatch.setattr(augmentation, "BUSSAM_CONTRAST", lambda image: image)
    low, high, filled = mean_after(augmentation.gamma_turn_scale_contrast, 0.4, 0.4**(1 / 2.4))
    assert (low, high) == pytest.approx((0.4, 0.4**(1 / 2.4)), abs=1e-5) and filled == pytest.approx(1, abs=1e-4)
    monkeypatch.undo()
    torch.manual_seed(0)
    halves = torch.cat([torch.full((1, 16, 8), 0.45), torch.full((1, 16, 8), 0.55)], dim=2)
    spread = [(new.max() - new.min()).item() / 0.1 for new in
              (augmentation.BUSSAM_CONTRAST(halves) for _ in range(200))]
    assert 0.8 - 1e-4 <= min(spread) < 0.85 and 1.95 < max(spread) <= 2.0 + 1e-4


def turned(method, n=300):
    """Angle in degrees, shift as a share of the side, and scale of n draws, from where two marked points go."""
    torch.manual_seed(0)
    side, found = 96, []
    for _ in range(n):
        image = torch.zeros(2, side, side)
        for channel, (x, y) in enumerate(((36, 48), (60, 48))):  # two discs, 24 pixels apart about the middle
            rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            image[channel] = ((rows + 0.5 - y)**2 + (columns + 0.5 - x)**2 < 16).float()
        left, right = (np.array(centroid(part.numpy() > 0.5)) + 0.5 for part in method(image))
        along = right - left if right[0] > left[0] else left - right  # mirrored
        found.append((np.degrees(np.arctan2(*along[::-1])), *np.abs((left + right) / 2 - side / 2) / side,
                      np.hypot(*along) / 24))
    return np.array(found).T


def test_turn_shift_and_scale_of_strong_fill_their_ranges():
    """Turns of up to 15°, shifts of up to a tenth, scales of 0.8 to 1.25, as its docstring says."""
    angle, across, down, scale = turned(augmentation.STRONG)
    assert 13 < np.abs(angle).max() < 16 and angle.min() < -12 and angle.max() > 12
    assert 0.085 < across.max() < 0.115 and 0.085 < down.max() < 0.115
    assert 0.77 < scale.min() < 0.85 and 1.2 < scale.max() < 1.29


def test_turns_of_bussam_fill_their_range():
    """A turn by up to 30° (specification 5.6), about the middle."""
    angle, across, down, scale = turned(augmentation.BUSSAM_TURN)
    assert 27 < np.abs(angle).max() < 31 and across.max() < 0.01 and down.max() < 0.01
    assert scale == pytest.approx(1, abs=0.05)


def test_turns_and_flips_of_the_official_recipes_are_all_there():
    image, mask = sample()

    def seen(method, n):
        torch.manual_seed(1)
        return {method(image, mask, (500, 400))[0].numpy().tobytes() for _ in range(n)}

    eight = {m.numpy().tobytes() for flip in (image, image.flip(2)) for m in (flip.rot90(k, (1, 2)) for k in range(4))}
    assert seen(augmentation.quarter_turns_and_flips, 150) == eight
    flips = {image.flip(axes).numpy().tobytes() for axes in ((2,), (1,), (1, 2))}
    found = seen(augmentation.flips_or_small_turns, 300)
    assert flips | {image.numpy().tobytes()} < found and len(found) == 4 + 10  # ten angles


def test_square_crop_by_hand():
    """An image of 400×200 pixels, stored as 64×64: the square is half as wide as the stored image."""
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, 56:] = True  # the last eighth: 12.5 % of the image
    image = torch.arange(SIDE).repeat(SIDE, 1)[None] / SIDE  # brightness tells the column
    torch.manual_seed(0)
    shares, widths = [], []
    for _ in range(50):
        new, where = augmentation.lesion_aware_square(image, mask, (400, 200))
        shares.append(where.float().mean().item())
        widths.append((new.max() - new.min()).item())
    assert min(shares) > 2 * 0.05  # over 5 % of the whole image is over 10 % of the half
    assert max(shares) <= 0.25 + 1e-6 and len(set(shares)) > 2
    assert widths == pytest.approx([31 / 64] * 50, abs=0.02)  # 32 columns each time
    tall, _ = augmentation.lesion_aware_square(image, mask, (200, 400))
    assert (tall.max() - tall.min()).item() == pytest.approx(63 / 64, abs=0.01)  # now all columns, half of the rows


def test_square_crop_of_a_small_lesion_takes_what_shows_most():
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, 30:34, 2:6] = True  # 0.4 % of the image, at the left end
    torch.manual_seed(0)
    shown = [augmentation.lesion_aware_square(torch.rand(1, SIDE, SIDE), mask, (400, 200))[1].sum().item()
             for _ in range(30)]
    assert min(shown) >= 16  # whole, and in the stretched square twice as wide


# ---- prompts after augmentation -------------------------------------------------------------------------------


class Told(System):
    prompts = ("global_text", "local_text", "point")


class Words:
    """Stands in for a text encoder: keeps the words."""

    device = torch.device("cpu")

    def __call__(self, texts):
        self.texts = getattr(self, "texts", []) + [texts]
        return torch.zeros(len(texts), 4)


def fold(mask, **overrides):
    cases = pd.DataFrame({"case_id": ["a"], "shape": ["oval"], "margin": ["circumscribed"], "birads": ["3"]})
    numpy = mask.numpy()
    prepared = Prepared(np.array(["a"]), np.zeros((1, SIDE, SIDE), np.uint8), numpy, np.array([[640, 320]]),
                        np.array([240]), np.array([bounding_box(numpy[0])]), np.array([centroid(numpy[0])]),
                        np.array([contour_centroid(numpy[0])]), "f")
    config = resolve("smoke", {"recipe": "strong", "drop_spatial": 0, "drop_attributes": 0} | overrides)
    plan = recipes.plan("x", config, 1)
    texts = Words()
    prompts = TrainingPrompts(Told(), cases, prepared, np.array([0]), (100.0, 200.0), plan, texts)
    texts.texts = []  # those that are embedded beforehand
    return prompts, texts


def test_after_a_flip_the_prompt_says_the_other_side():
    _, mask = sample()
    said, texts = fold(mask)
    generator = torch.Generator().manual_seed(0)
    plain = said([0], generator, mask[None])
    mirrored = said([0], generator, mask[None].flip(-1))
    assert texts.texts[0] == ["a large lesion in the upper left quadrant of the image"]  # 24 of 64 columns of 640
    assert texts.texts[2] == ["a large lesion in the upper right quadrant of the image"]
    for given, where in ((plain, mask[0]), (mirrored, mask[0].flip(-1))):
        x, y = (given.point[0] * SIDE).int().tolist()
        assert where[y, x]


def test_size_is_measured_on_the_augmented_mask_in_original_pixels():
    small = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    small[:, 40:60, 50:58] = True  # 8 columns of 10 pixels, 20 rows of 5: 100 pixels
    said, texts = fold(sample()[1])
    said([0], torch.Generator().manual_seed(0), small[None])
    assert texts.texts[0] == ["a small lesion in the lower right quadrant of the image"]


def test_a_lesion_out_of_view_is_not_described():
    said, texts = fold(sample()[1])
    given = said([0], torch.Generator().manual_seed(0), torch.zeros(1, 1, SIDE, SIDE, dtype=torch.bool))
    assert texts.texts == [["a lesion"], ["a lesion"]]
    assert given.point.tolist() == [[0.5, 0.5]]


def test_dropped_prompts_are_dropped_after_augmentation_too():
    mask = sample()[1]
    said, texts = fold(mask, drop_spatial=1, drop_attributes=1)
    assert said([0], torch.Generator().manual_seed(0), mask[None]).point.tolist() == [[0.5, 0.5]]
    assert texts.texts == [["a lesion"], ["a lesion"]]


def test_each_image_of_a_batch_has_the_prompt_of_its_own_mask():
    _, mask = sample()
    low = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    low[:, 40:60, 50:58] = True
    said, texts = fold(mask)
    given = said([0, 0], torch.Generator().manual_seed(0), torch.stack([mask, low]))
    assert texts.texts[0] == ["a large lesion in the upper left quadrant of the image",
                              "a small lesion in the lower right quadrant of the image"]
    for point, where in zip(given.point, (mask[0], low[0]), strict=True):
        x, y = (point * SIDE).int().tolist()
        assert where[y, x]


class Recorder(System):
    """Logits are the image times one weight; keeps what it was given, and its frozen encoder doubles an image."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def encode_images(self, images):
        return 2 * images

    def forward(self, image, image_features, prompts):
        self.given = image.detach().clone(), image_features.clone(), prompts
        return self.weight * image


def test_a_step_trains_on_the_augmented_image_its_mask_its_prompt_and_its_features():
    """The augmentation mirrors: whatever was not mirrored differs from what is expected."""
    images = torch.arange(2 * 4 * 4, dtype=torch.uint8).view(2, 1, 4, 4) * 7
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    masks[:, :, 1, 0] = masks[1, :, 2, :3] = True
    told = []

    def prompts(batch, generator, shown):
        told.append((batch, shown.clone()))
        return "prompts"

    config = resolve("smoke", {"recipe": "strong", "amp": False})
    plan = replace(recipes.plan("x", config, 2), loss=lambda logits, mask: (logits * mask).sum(),
                   augmentation=lambda image, mask, frame: (image.flip(-1), mask.flip(-1)))
    system = Recorder()
    optimiser = torch.optim.SGD(system.parameters(), lr=0)
    loss = loop.train_step(system, loop.TrainingData(images, masks, None, prompts, frames=torch.tensor([[4, 4]] * 2)),
                           [1, 0], optimiser, plan, torch.Generator(), torch.device("cpu"))
    mirrored = images[[1, 0]].flip(-1) / 255
    assert torch.equal(system.given[0], mirrored) and system.given[2] == "prompts"
    assert system.given[1] == pytest.approx(2 * mirrored, abs=0.01)
    assert told[0][0] == [1, 0] and torch.equal(told[0][1], masks[[1, 0]].flip(-1))
    # grey levels are 7 times a pixel's number: the lesion is pixels 20 and 24 to 26 of case 1, and 4 of case 0
    assert loss.item() == pytest.approx(2 * 7 * (20 + 24 + 25 + 26 + 4) / 255)


def test_mirrored_finding():
    finding = words.Finding((40, 30), (100.0, 50.0), (640, 320), (0.25, 0.3))
    mirrored = words.mirror(finding)
    assert mirrored == words.Finding((40, 30), (539.0, 50.0), (640, 320), (0.75, 0.3))
    assert words.quadrant(finding.centre, finding.frame) == "upper left"
    assert words.quadrant(mirrored.centre, mirrored.frame) == "upper right"
    assert words.mirror(mirrored) == finding
    assert words.mirror(words.Finding(None, None, (640, 320))).centre is None
