"""How much the prompts give away: by hand, on the phantom, and the specification's figures on the real data."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.analyses.prompts import figures, leak
from xbuslib.config import resolve
from xbuslib.data.images import read_mask
from xbuslib.evaluation import metrics
from xbuslib.prompts import words
from xbuslib.runs.source import open_source


def test_numbers_come_from_the_text():
    finding = words.Finding((139, 101), (374.0, 250.0), (640, 480))
    assert leak.read_numbers(words.released_global_text(finding)) == ((139, 101), (374, 250))
    with pytest.raises(ValueError, match="no box"):
        leak.read_numbers(words.global_text("small", "upper left"))


def test_shapes_by_hand():
    assert np.array_equal(leak.draw_box((3, 1), (2, 1), (5, 3)),
                          np.array([[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]], bool))
    ellipse = leak.draw_ellipse((200, 100), (149.5, 79.5), (300, 160))
    assert ellipse.sum() == pytest.approx(np.pi * 100 * 50, rel=0.005)  # πab
    assert np.ptp(np.flatnonzero(ellipse.any(axis=0))) + 1 == 200  # as wide as the box


def test_only_the_words_enter_the_guess(phantom_root, outputs):
    """A centroid that moves within its quadrant moves the drawing from numbers and leaves those from words alone."""
    source = open_source("phantom", phantom_root, None, resolve("smoke"), "test")
    prepared, rows = source.prepared, source.prepared.rows(source.cases["case_id"])
    edges = words.size_edges(prepared.long_sides[rows])
    known = edges, leak.typical_boxes(prepared, rows, edges), leak.typical_places(prepared, rows)
    row = rows[0]
    moved = prepared.centroids.copy()
    half = prepared.original_sizes[row] / 2
    moved[row] = np.where(moved[row] < half, 0.1, 1.9) * half  # to the corner of its own quadrant
    before = leak.drawings(prepared, row, *known)
    after = leak.drawings(dataclasses.replace(prepared, centroids=moved, contour_centroids=moved), row, *known)
    assert {name: np.array_equal(before[name], after[name]) for name in before} == {
        "released prompt: ellipse": False, "released prompt: box": False,
        "paper's words: usual location": True, "paper's words: middle of the quadrant": True, "no prompt": True}


def test_scores_of_the_phantom_are_complete(phantom_root, outputs):
    source = open_source("phantom", phantom_root, None, resolve("smoke"), "test")
    scores = leak.score(source.cases, source.prepared, source.fold_of)
    assert len(scores) == len(source.cases) * len(leak.DRAWN_FROM) and scores["dice"].between(0, 1).all()
    dice = scores.groupby("drawn")["dice"].mean()
    assert dice["released prompt: ellipse"] > 0.8 > dice["paper's words: usual location"]


def test_the_reference_is_the_union_of_all_masks_of_an_image(phantom_root, outputs, tmp_path):
    """As in BUSI: one case with its first mask and, as a second one, the whole upper half of the frame."""
    source = open_source("phantom", phantom_root, None, resolve("smoke"), "test")
    cases = source.cases.copy()
    mask = read_mask(cases["mask"][0])
    half = np.zeros_like(mask)
    half[:len(half) // 2] = True
    for name, pixels in (("m", mask), ("m_1", half)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    cases.loc[0, "mask"], cases["more_masks"] = str(tmp_path / "m.png"), None
    cases.loc[0, "more_masks"] = "m_1.png"
    own = leak.score(cases, source.prepared, source.fold_of).query("drawn == 'no prompt'").set_index("case_id")
    row, train = source.prepared.rows(cases["case_id"][:1])[0], source.split(source.fold_of[cases["case_id"][0]])[0]
    rows = source.prepared.rows(train["case_id"])
    edges = words.size_edges(source.prepared.long_sides[rows])
    drawn = leak.drawings(source.prepared, row, edges, leak.typical_boxes(source.prepared, rows, edges),
                          leak.typical_places(source.prepared, rows))["no prompt"]
    union, name = mask | half, cases["case_id"][0]
    assert own.loc[name, "dice"] == pytest.approx(2 * (drawn & union).sum() / (drawn.sum() + union.sum()))
    shown = pd.DataFrame({"case_id": name, "drawn": list(figures.DRAWN), "dice": 0})
    figure = figures.drawn_shapes(cases[:1], [dict.fromkeys(figures.DRAWN, drawn)], shown, "BUSI")
    outline = np.concatenate([path.vertices for path in figure.axes[0].collections[0].get_paths()])
    assert np.ptp(outline[:, 0]) == mask.shape[1] - 1  # from edge to edge of the frame


def test_figures_of_the_specification_on_the_real_data(blu_root, outputs):
    """Section 3 of the specification: ellipse .873 (median .887) and .781, two-class .930; box .797 and .668."""
    source = open_source("blu", blu_root, blu_root / "released_folds", resolve("smoke"), "test")
    scores = leak.score(source.cases, source.prepared, source.fold_of).set_index("drawn")
    mean = scores.groupby("drawn")[["dice", "iou", "dice_two_class"]].mean()
    assert mean.loc["released prompt: ellipse"].to_list() == pytest.approx([0.873, 0.781, 0.930], abs=1e-3)
    assert mean.loc["released prompt: box", ["dice", "iou"]].to_list() == pytest.approx([0.797, 0.668], abs=1e-3)
    assert scores.loc["released prompt: ellipse", "dice"].median() == pytest.approx(0.887, abs=2e-3)
    assert mean.loc["paper's words: usual location", "dice"] == pytest.approx(0.469, abs=5e-3)
    assert mean.loc["no prompt", "dice"] == pytest.approx(0.394, abs=5e-3)


def test_the_authors_own_sentences_say_as_much(blu_root, outputs):
    """The same from the sentences in the released lists, which cut fractions of a pixel off where ours rounds."""
    source = open_source("blu", blu_root, None, resolve("smoke"), "test")
    released = pd.concat([pd.read_csv(path) for path in sorted((blu_root / "released_folds").glob("val_fold*.csv"))])
    sentence = released.set_index("Image Name")["Sentence"]
    masks = [read_mask(path) for path in source.cases["mask"]]
    drawn = [leak.draw_ellipse(*leak.read_numbers(sentence[f"{case}.png"]), mask.shape[::-1])
             for case, mask in zip(source.cases["case_id"], masks, strict=True)]
    dice = metrics.per_image(drawn, masks)["dice"]
    assert dice.mean() == pytest.approx(0.873, abs=1e-3) and dice.median() == pytest.approx(0.887, abs=1e-3)


def test_the_answer_in_words():
    leaks = pd.DataFrame({"dice": [0.886, 0.806, 0.576, 0.232, 0.509], "iou": [0.808, 0, 0, 0, 0],
                          "above_0_8": [0.81, 0, 0, 0, 0]}, index=list(leak.DRAWN_FROM))
    text = leak.answer("BLU", leaks)
    assert "reaches a lesion Dice of 0.89** (BLU; IoU 0.81; Dice above 0.8 for 81% of the lesions)" in text
    assert "reach 0.58; the average lesion, drawn without any prompt, reaches 0.51." in text
