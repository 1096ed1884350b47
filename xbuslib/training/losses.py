"""The losses of the recipes. Logits (B, 1, h, w) in any precision, masks (B, 1, H, W) bool; float32 inside.

A system that is trained on logits smaller than the mask (BUSSAM) gets the mask at their size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 − mean over images of (2I + 1)/(P + G + 1); the paper names no loss (docs/protocol.md).

    The constant 1 keeps an empty pair at loss 0.
    """
    return 1 - _dice(logits, masks, constant=1).mean()


def released_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 − mean over images of 2(I + 1)/(P + G + 1): CLIP-TNseg's, and the released XBusNet's (specification 6.7).

    The constant stands inside the doubled numerator, so an empty pair has loss −1.
    """
    probabilities, targets = _flat(logits, masks)
    overlap = (probabilities * targets).sum(1)
    return 1 - (2 * (overlap + 1) / (probabilities.sum(1) + targets.sum(1) + 1)).mean()


def cross_entropy_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy over all pixels: two-class cross-entropy for AnatoSegNet's difference of logits (4.5)."""
    return F.binary_cross_entropy_with_logits(logits.float(), at_size(masks, logits).float())


def cross_entropy_dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy + soft Dice, the common choice today: one term per pixel, one for the lesion as a whole."""
    return cross_entropy_loss(logits, masks) + soft_dice_loss(logits, masks)


def ukan_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """0.5 · cross-entropy + 1 − mean over images of (2I + s)/(P + G + s), s = 1e-5 (3.5)."""
    return 0.5 * cross_entropy_loss(logits, masks) + 1 - _dice(logits, masks, constant=1e-5).mean()


def bussam_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """0.2 · cross-entropy, lesion pixels counting twice, + 0.8 · (1 − (2I + s)/(ΣP² + ΣG² + s)), s = 1e-5 (5.6).

    The sums run over the whole batch.
    """
    targets = at_size(masks, logits).float()
    twice = torch.tensor(2.0, device=logits.device)
    entropy = F.binary_cross_entropy_with_logits(logits.float(), targets, pos_weight=twice)
    probabilities = torch.sigmoid(logits.float())
    squares = probabilities.square().sum() + targets.square().sum()
    return 0.2 * entropy + 0.8 * (1 - (2 * (probabilities * targets).sum() + 1e-5) / (squares + 1e-5))


def at_size(masks: Tensor, logits: Tensor) -> Tensor:
    """Masks at the height and width of the logits, nearest neighbour by pixel centres."""
    if masks.shape[-2:] == logits.shape[-2:]:
        return masks
    return F.interpolate(masks.float(), size=logits.shape[-2:], mode="nearest-exact") > 0


def _dice(logits: Tensor, masks: Tensor, constant: float) -> Tensor:
    """(B,) (2I + constant)/(P + G + constant)."""
    probabilities, targets = _flat(logits, masks)
    overlap = (probabilities * targets).sum(1)
    return (2 * overlap + constant) / (probabilities.sum(1) + targets.sum(1) + constant)


def _flat(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """(B, h·w) probabilities and targets."""
    return torch.sigmoid(logits.float()).flatten(1), at_size(masks, logits).float().flatten(1)
