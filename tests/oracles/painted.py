"""A dataset of painted cases, a system that sees brightness alone, and the words of Section 2.7 written once more.

What an image shows and where its reference mask lies have nothing to do with each other here, so that a prompt tells
from which of both it was made.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from xbuslib.models import registry
from xbuslib.models.system import System

# greys at 0.298 and 0.302, on both sides of the threshold of 0.30; and one that is brighter than both
BELOW, ABOVE, BRIGHT = 76, 77, 230


def paint(phantom: Path, root: Path, seed: int = 0) -> Path:
    """A copy of a phantom's files with painted images and masks. Masks of even cases, counted from 0 by name, are
    much larger than those of odd ones."""
    shutil.copytree(phantom, root)
    for number, mask in enumerate(sorted(root.rglob("case*_tumor.png"))):
        draw = np.random.default_rng([seed, number])
        width, height = (int(side) for side in draw.integers(96, 180, 2))
        image = np.full((height, width), BELOW, np.uint8)
        _region(image, draw, *draw.integers(12, 48, 2))[:] = ABOVE
        _region(image, draw, 9, 9)[:] = BRIGHT
        shown = np.zeros((height, width), np.uint8)
        _region(shown, draw, *(draw.integers(50, 90, 2) if number % 2 == 0 else draw.integers(8, 40, 2)))[:] = 255
        Image.fromarray(image).save(mask.with_name(mask.name.replace("_tumor", "")))
        Image.fromarray(shown).save(mask)
    return root


def _region(picture: np.ndarray, draw: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A rectangle of the picture at a random place, that can be written to."""
    row, column = (int(draw.integers(0, side - inner)) for side, inner in zip(picture.shape, (height, width),
                                                                            strict=True))
    return picture[row:row + height, column:column + width]


def fold_lists(folder: Path, case_ids: list[str]) -> Path:
    """Two folds: even cases validate fold 0, odd ones fold 1."""
    folder.mkdir()
    for fold in (0, 1):
        names = [f"{name}.png" for name in case_ids[fold::2]]
        pd.DataFrame({"Image Name": names}).to_csv(folder / f"val_fold{fold}.csv", index=False)
    return folder


class Brightness(System):
    """The probability of a lesion is the grey of a pixel. Told any size or location, it turns its map upside down, and
    told any attribute, left to right: so a map tells what its prompt said. It keeps every row that it is given."""

    prompts = ("global_text", "local_text", "point")

    def __init__(self, weights=None):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1))
        self.weights_record: list[dict] = []
        self.words: list[str] = []
        self.seen: list[tuple] = []  # training or not, (S, S) image, global text, local text, (x, y)

    def encode_texts(self, texts: list[str]) -> Tensor:
        self.words += [text for text in texts if text not in self.words]
        return torch.tensor([[float(self.words.index(text))] for text in texts])

    def forward(self, image: Tensor, image_features, prompts) -> Tensor:
        about, findings = self._read(prompts.global_text), self._read(prompts.local_text)
        maps = []
        for one, *told in zip(image, about, findings, prompts.point.tolist(), strict=True):
            self.seen.append((self.training, one[0].clone().numpy(), *told))
            turned = [1] * (told[0] != "a lesion") + [2] * (told[1] != "a lesion")
            maps.append(one.flip(turned) if turned else one)
        return torch.stack(maps).clamp(1e-3, 1 - 1e-3).logit() + self.shift

    def _read(self, embedded: Tensor) -> list[str]:
        return [self.words[int(number)] for number in embedded[:, 0].tolist()]


def register(monkeypatch) -> list[Brightness]:
    """Makes the system "brightness" one of the study; those that are built from now on are in the list."""
    made, class_of = [], registry.system_class

    class Kept(Brightness):
        def __init__(self, weights=None):
            super().__init__(weights)
            made.append(self)

    monkeypatch.setitem(registry.REGISTRY, "brightness", registry.Entry("Brightness", "none.None",
                                                                       settings=("weights",)))
    monkeypatch.setattr(registry, "system_class", lambda name: Kept if name == "brightness" else class_of(name))
    return made


# ---- Section 2.7, from a map to words -----------------------------------------------------------------------


def thirds(lengths: list[float]) -> tuple[float, float]:
    """The numbers below which a third and two thirds of the lengths lie, interpolated between neighbours."""
    lengths, edges = sorted(lengths), []
    for share in (1 / 3, 2 / 3):
        at = share * (len(lengths) - 1)
        low = int(at)
        high = min(low + 1, len(lengths) - 1)
        edges.append(lengths[low] + (at - low) * (lengths[high] - lengths[low]))
    return edges[0], edges[1]


def size_class(length: float, edges: tuple[float, float]) -> str:
    if length <= edges[0]:
        return "small"
    return "medium" if length <= edges[1] else "large"


def measured(region: np.ndarray) -> tuple[tuple[int, int], tuple[float, float]]:
    """Width and height of the box around a region, and its centroid (M10/M00, M01/M00), eq. (1)."""
    pixels = [(x, y) for y in range(region.shape[0]) for x in range(region.shape[1]) if region[y, x]]
    xs, ys = [x for x, _ in pixels], [y for _, y in pixels]
    return ((max(xs) - min(xs) + 1, max(ys) - min(ys) + 1), (sum(xs) / len(xs), sum(ys) / len(ys)))


def place_of(centroid: tuple[float, float], width: int, height: int) -> str:
    """The quadrant of the frame in which the centroid lies; pixel x covers x to x + 1."""
    row = "upper" if 2 * (centroid[1] + 0.5) < height else "lower"
    return f"{row} {'left' if 2 * (centroid[0] + 0.5) < width else 'right'}"


def largest_region(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """The coarse proposal R: of the pixels at or above the threshold, the largest set joined by sides."""
    left = {(int(y), int(x)) for y, x in np.argwhere(probabilities >= threshold)}
    best: set = set()
    while left:
        region, edge = set(), [min(left)]
        while edge:
            y, x = edge.pop()
            if (y, x) in left:
                left.remove((y, x))
                region.add((y, x))
                edge += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        best = region if len(region) > len(best) else best
    mask = np.zeros(probabilities.shape, bool)
    for y, x in best:
        mask[y, x] = True
    return mask


def about(size: str | None = None, place: str | None = None) -> str:
    """The Global Feature Context Prompt."""
    text = f"a {size} lesion" if size else "a lesion"
    return f"{text} in the {place} quadrant of the image" if place else text
