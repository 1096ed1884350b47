"""What the recipes do to training images. One sample at a time, image and mask together; all draws are torch's own.

Every function takes an image (1, S, S) in [0, 1], its mask (1, S, S) bool and the original (width, height), and
returns image and mask at the same size. What turns into view from outside the frame is black, as around a sector.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

Augmentation = Callable[[Tensor, Tensor, tuple[int, int]], tuple[Tensor, Tensor]]
BILINEAR = v2.InterpolationMode.BILINEAR


def augment(method: Augmentation, images: Tensor, masks: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """`method` on every sample of images and masks (B, 1, S, S), their original sizes being frames (B, 2)."""
    pairs = [method(*sample) for sample in zip(images, masks, frames.tolist(), strict=True)]
    return torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs])


STRONG = v2.Compose([
    v2.RandomHorizontalFlip(0.5),  # not vertically: the shadow of a lesion would lie above it
    v2.RandomAffine(15, translate=(0.1, 0.1), scale=(0.8, 1.25), interpolation=BILINEAR),  # another hold of the probe
])
GAIN, GAMMA = (0.7, 1.3), (0.7, 1.5)  # what a sonographer's gain and dynamic range change


def strong(image: Tensor, mask: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Mirror, turn by up to 15°, shift by up to 10 %, scale by 0.8–1.25; gain and gamma."""
    image, mask = _together(STRONG, image, mask)
    return V.adjust_gamma(V.adjust_brightness(image, _uniform(*GAIN)), _uniform(*GAMMA)), mask


def quarter_turns_and_flips(image: Tensor, mask: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """U-KAN (specification 3.5): half of the time 0–3 quarter turns, half of the time mirrored along x, y or both."""
    if _chance():
        turns = _integer(0, 3)
        image, mask = image.rot90(turns, (1, 2)), mask.rot90(turns, (1, 2))
    if _chance():
        axes = ((2,), (1,), (1, 2))[_integer(0, 2)]
        image, mask = image.flip(axes), mask.flip(axes)
    return image, mask


def flips_or_small_turns(image: Tensor, mask: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """AnatoSegNet (4.5): one of five at equal odds, mirrored along x, y or both, turned by ±1 … 5 degrees, or as is."""
    choice = _integer(0, 4)
    if choice < 3:
        axes = ((2,), (1,), (1, 2))[choice]
        return image.flip(axes), mask.flip(axes)
    if choice == 3:
        degrees = _integer(1, 5) * (1 if _chance() else -1)
        return _together(lambda both: V.rotate(both, degrees, BILINEAR), image, mask)
    return image, mask


BUSSAM_TURN = v2.RandomRotation(30, BILINEAR)
BUSSAM_CONTRAST = v2.ColorJitter(contrast=(0.8, 2.0))


def gamma_turn_scale_contrast(image: Tensor, mask: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """BUSSAM (5.6), each half of the time: gamma, a turn by up to 30°, enlarging by up to 1.3 and a crop, contrast."""
    if _chance():
        image = V.adjust_gamma(image, 10 / _integer(10, 24))  # exponent 1/g, g one of 1.0, 1.1 … 2.4
    if _chance():
        image, mask = _together(BUSSAM_TURN, image, mask)
    if _chance():
        side = image.shape[-1]
        larger = v2.ScaleJitter((side, side), (1.0, 1.3), BILINEAR)
        image, mask = _together(v2.Compose([larger, v2.RandomCrop(side)]), image, mask)
    if _chance():
        image = BUSSAM_CONTRAST(image)
    return image, mask


TRIES, ENOUGH = 50, 0.05  # 6.7


def lesion_aware_square(image: Tensor, mask: Tensor, frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """CLIP-TNseg (6.7): a random square as large as the original image allows, stretched back to (S, S).

    Of up to 50 squares the first is taken that shows a lesion of over 5 % of the whole image, else the one that
    shows the most of it. The stored image is stretched, so the square is one with the original's proportions.
    """
    (width, height), side = frame, image.shape[-1]
    along, shorter = (2, height / width) if width > height else (1, width / height)
    window = max(1, round(side * shorter))  # the square is full along the shorter axis, this long along the other
    lesion = mask.sum(dim=(0, 3 - along)).cpu()  # (S,) lesion pixels per column or row
    before = torch.cat([torch.zeros(1, dtype=lesion.dtype), lesion.cumsum(0)])
    starts = torch.randint(0, side - window + 1, (TRIES,))
    shown = before[starts + window] - before[starts]
    enough = (shown > ENOUGH * side * side).nonzero()
    start = int(starts[enough[0, 0] if len(enough) else shown.argmax()])
    image, mask = (part.narrow(along, start, window) for part in (image, mask))
    return _together(v2.Resize((side, side), BILINEAR), image, mask)


def _together(transform: Callable, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A torchvision transform on both at once, as the two channels of one picture; the mask is then cut at a half.

    So both are interpolated alike. Nearest neighbour would shift the mask by up to half a pixel on resizing.
    """
    both = transform(torch.cat([image, mask.to(image)]))  # (2, S, S)
    return both[:1], both[1:] > 0.5


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(1).uniform_(low, high))


def _integer(low: int, high: int) -> int:
    """One of low … high, both ends included."""
    return int(torch.randint(low, high + 1, (1,)))


def _chance() -> bool:
    return bool(torch.rand(1) < 0.5)
