"""Diagrams of GFE, LFE and SFA: their shapes are those of the paper's equations, and their texts fit."""

import pytest
import torch
from matplotlib.patches import FancyArrowPatch
from matplotlib.transforms import Bbox

from xbuslib.analyses import anatomy, diagrams
from xbuslib.config import resolve
from xbuslib.models import registry

EXPECTED = {  # at 352 pixels: 22 = 352/16 patches a side, 484 = 22²; widths of eqs. (6)–(16) and of ResNet-50
    "gfe": ["1×352×352", "3 × 484×768", "484×64", "484×64", "64×352×352", "64×352×352"],
    "lfe": ["1×352×352", "64×176×176", "256×88×88", "512×44×44", "1024×22×22", "2048×11×11", "1024×22×22", "512×44×44",
            "256×88×88", "64×176×176", "32×352×352"],
    "sfa": ["512", "256, then 128", "64 each", "64×352×352", "64×352×352"],
}
PROMPTED = {"gfe": ["(7)", "(3)"], "lfe": ["enc4*", "dec4*", "dec3*", "dec2*"], "sfa": ["(13)", "(15)"]}


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        return registry.build("xbusnet", resolve("paper", {"weights": "random"})).eval()


@pytest.mark.parametrize("part", EXPECTED)
def test_shapes_and_prompts(paper, part):
    axis = getattr(diagrams, part)(paper, anatomy.trace_meta(paper, 352)).axes[0]
    texts = [text for text in axis.texts if text.get_text()]
    below = [text.get_text() for text in texts if text.get_position()[1] < diagrams.LEVEL]
    above = [text.get_position()[0] for text in texts if text.get_position()[1] > diagrams.LEVEL]
    inside = {text.get_position()[0]: text.get_text() for text in texts if text.get_position()[1] == diagrams.LEVEL}
    assert below == EXPECTED[part]
    given = [inside[x] for x in above]  # the boxes that something enters from above
    assert len(given) == len(PROMPTED[part])
    assert all(name in text for name, text in zip(PROMPTED[part], given, strict=True))


@pytest.mark.parametrize("part", EXPECTED)
def test_texts_stay_in_their_boxes_and_apart(paper, part):
    figure = getattr(diagrams, part)(paper, anatomy.trace_meta(paper, 352))
    figure.draw_without_rendering()
    axis = figure.axes[0]
    texts = [(text.get_text(), text.get_window_extent()) for text in axis.texts if text.get_text()]
    assert [(a, b) for i, (a, one) in enumerate(texts) for b, other in texts[:i] if one.overlaps(other)] == []
    boxes = [patch.get_window_extent() for patch in axis.patches if not isinstance(patch, FancyArrowPatch)]
    for name, extent in texts:
        for box in boxes:
            assert not extent.overlaps(box) or Bbox.intersection(extent, box).bounds == extent.bounds, name


def test_each_skip_joins_maps_of_one_size(paper):
    axis = diagrams.lfe(paper, anatomy.trace_meta(paper, 352)).axes[0]
    sizes = [shape.split("×", 1)[1] for shape in EXPECTED["lfe"]]
    ends = [[round(x - 0.5) for x, _ in arrow._posA_posB] for arrow in axis.patches
            if isinstance(arrow, FancyArrowPatch)]
    assert len(ends) == 4 and all(sizes[start] == sizes[end] and start < end for start, end in ends)
