"""Figures 2 and 3: every panel labelled, nothing overlapping or cut off with twelve long names, colours as stated."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from xbuslib.analyses.cases import figures
from xbuslib.data.images import Prepared
from xbuslib.display.masks import FALSE_NEGATIVE, FALSE_POSITIVE
from xbuslib.models import registry
from xbuslib.runs import record

SIDE = 32
RULES = ("high contrast", "small", "low contrast, heterogeneous", "irregular echotexture")
TITLE = ("Errors on cases chosen by rule\nsimulated phantom, profile quick, 64 px, 120 iterations, CLIP random, "
         "ResNet-18 random, SAM random, 5 folds, seeds 0, 1, 2")


@pytest.fixture(scope="module")
def prepared():
    rng = np.random.default_rng(0)
    masks, pair = np.zeros((4, SIDE, SIDE), bool), np.zeros((4, 2))
    masks[:, 10:20, 8:22] = True
    return Prepared(np.array([f"case{i:03d}" for i in range(4)]), rng.integers(0, 200, (4, SIDE, SIDE), np.uint8),
                    masks, pair, np.zeros(4), pair, pair, pair, "")


def rows(count):
    systems = registry.names()[:count]
    return pd.DataFrame([{"rule": rule, "case_id": f"case{i:03d}", "system": name,
                          "paper_name": registry.REGISTRY[name].paper, "dice": (i + place) / 16}
                         for i, rule in enumerate(RULES) for place, name in enumerate(systems)])


def maps(table):
    rng = np.random.default_rng(1)
    return {(row.system, row.case_id): rng.random((SIDE, SIDE)) for row in table.itertuples()}


def drawn_texts(figure):
    """Texts that a reader sees, without tick labels of axes that are switched off."""
    texts = [figure._suptitle, figure._supxlabel, *(t for legend in figure.legends for t in legend.get_texts())]
    for axis in figure.axes:
        texts += [*axis.texts, axis.title]
        if axis.axison:
            left, right = axis.get_xlim()  # ticks beyond the limits are not drawn
            ticks = [tick.label1 for tick in axis.xaxis.get_major_ticks() if left <= tick.get_loc() <= right]
            texts += [axis.xaxis.label, axis.yaxis.label, *ticks]
            texts += axis.get_yticklabels() if axis.yaxis.get_tick_params()["labelleft"] else []
    return [text for text in texts if text is not None and text.get_text() and text.get_visible()]


def check_texts(figure):
    """Nothing overlaps, nothing leaves the page, nothing is smaller than seven points."""
    figure.draw_without_rendering()  # a closed figure has no canvas that draws
    texts = drawn_texts(figure)
    boxes, page = [text.get_window_extent() for text in texts], figure.bbox
    pairs = [(a.get_text(), b.get_text()) for i, a in enumerate(texts) for j, b in enumerate(texts[:i])
             if boxes[i].overlaps(boxes[j])]
    outside = [text.get_text() for text, box in zip(texts, boxes, strict=True)
               if box.x0 < page.x0 - 1 or box.x1 > page.x1 + 1 or box.y0 < page.y0 - 1 or box.y1 > page.y1 + 1]
    assert (pairs, outside) == ([], [])
    assert min(text.get_fontsize() for text in texts) >= 7
    return [text.get_text().replace("\n", " ") for text in texts]


@pytest.mark.parametrize("count", [1, 7, 12])
def test_figure_2_is_one_block_with_the_dice_of_every_panel(prepared, count):
    """As in the paper: a row for each case; image, ground truth, then the systems in their order."""
    table = rows(count)
    figure = figures.error_grid(prepared, table, maps(table), 0.5, TITLE)
    texts = check_texts(figure)
    titles = [axis.get_title().replace("\n", " ") for axis in figure.axes[:count + 2]]
    assert titles == ["image", "ground truth", *(registry.REGISTRY[name].paper for name in registry.names()[:count])]
    assert len(figure.axes) == 4 * (count + 2)
    assert sorted(text for text in texts if text.startswith("Dice")) == sorted(f"Dice {d:.2f}" for d in table["dice"])
    assert texts.count("image") == texts.count("small case001") == 1
    assert {"false positive", "false negative", "reference"} <= set(texts)
    figure.draw_without_rendering()
    assert min(axis.get_window_extent().width for axis in figure.axes) >= 140  # pixels in a notebook
    truth = figure.axes[count + 3].images[0].get_array()  # of the second case
    assert (truth == prepared.masks[1]).all()


def test_panels_show_the_errors_of_their_own_system_and_case(prepared):
    table = rows(2)
    found = {key: prepared.masks[0].astype(float) for key in maps(table)}  # perfect, but for two panels
    found["unet", "case001"] = np.zeros((SIDE, SIDE))
    found["uresnet", "case002"] = np.ones((SIDE, SIDE))
    figure = figures.error_grid(prepared, table, found, 0.5, TITLE)
    pictures = {(row, column): figure.axes[4 * row + 1 + column].images[0].get_array() for row in range(4)
                for column in (1, 2)}
    grey = prepared.images / 255
    for (row, column), picture in pictures.items():
        difference = np.abs(picture - grey[row][..., None]).max(axis=2) > 1e-6
        wrong = {(1, 1): prepared.masks[1], (2, 2): ~prepared.masks[2]}.get((row, column), np.zeros((SIDE, SIDE), bool))
        assert (difference == wrong).all()
    assert pictures[1, 1][15, 15].argmax() == 0 and pictures[2, 2][0, 0].argmax() == 2  # red missed, blue added


def test_panels_at_a_threshold_that_half_precision_rounds(prepared):
    """0.4 is 0.3999 in half precision, and so is what lies just below it around the lesions."""
    table = rows(1)
    found = {(row.system, row.case_id): record.halved(np.where(prepared.masks[0], np.float32(0.9), np.float32(0.39995)),
                                                      0.4) for row in table.itertuples()}
    shown = figures.error_grid(prepared, table, found, 0.4, TITLE).axes[2].images[0].get_array()
    assert np.abs(shown - prepared.images[0][..., None] / 255).max() < 1e-6  # no error


@pytest.mark.parametrize("count", [6, 12])
def test_figure_3_says_where_a_map_is_empty(prepared, count):
    table = rows(count)
    found = maps(table)
    found["unet", "case002"] = np.zeros((SIDE, SIDE))
    caption = "Target: sum of the logits over the predicted lesion. Layers: " + "a.module.path, 16×16 (System); " * 8
    figure = figures.cam_grid(prepared, table, found, TITLE, caption)
    texts = check_texts(figure)
    assert texts.count("no activation") == 1 and any(text.startswith("Target: sum of the logits") for text in texts)
    assert "Grad-CAM, share of the panel's maximum" in texts


def test_heat_leaves_the_image_where_there_is_none():
    image, cam = np.full((4, 4), 100, np.uint8), np.zeros((4, 4))
    cam[1, 1] = 1
    picture = figures.heat_overlay(image, cam)
    assert picture[0, 0] == pytest.approx([100 / 255] * 3)
    assert picture[1, 1] == pytest.approx(0.45 * 100 / 255 + 0.55 * np.array(figures.HEAT(1.0)[:3]))
    assert picture.min() >= 0 and picture.max() <= 1


def test_bars_of_the_errors_have_their_lengths():
    table = pd.DataFrame({"paper_name": [registry.REGISTRY[name].paper for name in registry.names()]})
    for place, name in enumerate(figures.ERRORS):
        table[name] = np.arange(12) * (place + 1.0)
    figure = figures.composition(table, TITLE)
    check_texts(figure)
    bars = {container.get_label(): list(container) for container in figure.axes[0].containers}
    for name, (label, colour, _) in figures.ERRORS.items():
        sign = -1 if name.startswith("missed") else 1
        assert [bar.get_width() for bar in bars[label]] == pytest.approx((sign * table[name]).tolist())
        assert to_rgb(colour) == (FALSE_NEGATIVE if sign < 0 else FALSE_POSITIVE)
    core = bars["missed, inside the lesion"][3]  # drawn beyond the boundary's share
    assert core.get_x() == pytest.approx(-table["missed_near"][3])


def test_activation_shows_shares_and_says_what_is_empty():
    rng = np.random.default_rng(0)
    names = [registry.REGISTRY[name].paper for name in registry.names()]
    summary = pd.DataFrame({"system": registry.names(), "paper_name": names, "cases": 4, "without_activation": 0,
                            "inside": 0.5, "near": 0.3, "elsewhere": 0.2, "spearman_all": rng.uniform(-1, 1, 12),
                            "spearman_after": rng.uniform(-1, 1, 12)})
    summary.loc[3, ["inside", "near", "elsewhere", "without_activation"]] = [np.nan, np.nan, np.nan, 4]
    table = pd.DataFrame([{"system": name, "case_id": f"case{i}", "inside_area": 0.1, "near_area": 0.2,
                           "elsewhere_area": 0.7, "spearman_all": 0.1 * i, "spearman_after": np.nan}
                          for name in registry.names() for i in range(4)])
    figure = figures.activation(summary, table, TITLE)
    texts = check_texts(figure)
    assert "4 of 4 maps without activation" in texts and "spread evenly" in texts
    inside = figure.axes[0].containers[0]
    assert [bar.get_width() for bar in inside][:5] == pytest.approx([10, 50, 50, 50, 0])
