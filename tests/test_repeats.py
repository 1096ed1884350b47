"""Repeated pictures, planted: found under other names and compressions, one group in the folds, shown in a table."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.analyses import repeats as shown
from xbuslib.data import folds, repeats
from xbuslib.data.cases import lesions
from xbuslib.data.catalogue import load
from xbuslib.data.images import read_grey


def as_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def resized(image, factor):
    return image.resize([round(side * factor) for side in image.size], Image.Resampling.BICUBIC)


PLANTED = {  # what was done to a picture: (how, what data check calls it; None: it is not found)
    "renamed": (lambda image: image, "equal pixels"),
    "stored with three channels": (lambda image: image.convert("RGB"), "equal pixels"),
    "recompressed": (lambda image: as_jpeg(image, 70), "alike"),
    "5 % smaller": (lambda image: resized(image, 0.95), "alike"),
    "5 % larger": (lambda image: resized(image, 1.05), "alike"),
    "brightened": (lambda image: image.point(lambda v: min(255, round(1.2 * v))), "alike"),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "mirrored"),
    "cropped by 2 pixels": (lambda image: image.crop((2, 2, image.width - 2, image.height - 2)), "alike"),
    "cropped by a tenth": (lambda image: image.crop((image.width // 10, 0, image.width, image.height)), None),
}


def dataset(folder, pictures):
    """BUSI's layout: each (class, number, image) with a square as its mask."""
    for kind, number, image in pictures:
        (folder / kind).mkdir(parents=True, exist_ok=True)
        mask = np.zeros(image.size[::-1], np.uint8)
        mask[20:60, 20:60] = 255
        image.save(folder / kind / f"{kind} ({number}).png", compress_level=1 + number % 9)
        Image.fromarray(mask).save(folder / kind / f"{kind} ({number})_mask.png")
    return folder


@pytest.fixture(scope="module")
def originals(phantom_root):
    return [Image.open(path).convert("L") for path in lesions(load("phantom", phantom_root))["image"][:12]]


@pytest.mark.parametrize("what", PLANTED)
def test_planted_repeats(what, originals, tmp_path):
    change, name = PLANTED[what]
    root = dataset(tmp_path, [("benign", number, image) for number, image in enumerate(originals, 1)]
                   + [("malignant", number, change(originals[number])) for number in range(1, 6)])
    found = shown.find("busi", root)
    expected = {(f"benign ({number + 1})", f"malignant ({number})") for number in range(1, 6)} if name else set()
    assert set(zip(found["one"], found["other"], strict=True)) == expected
    assert set(found["what"]) == ({name} if name else set()) and (found["one_class"] != found["other_class"]).all()


def test_data_check_names_them_with_a_table_and_a_picture(originals, tmp_path, run_command):
    root = dataset(tmp_path / "d", [("benign", 1, originals[0]), ("benign", 2, originals[1]),
                                    ("malignant", 1, originals[0]), ("malignant", 2, as_jpeg(originals[1], 80))])
    done = run_command("data", "check", "busi", "--root", root, "--pairs", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(pair["one"], pair["other"], pair["what"]) for pair in report["repeats"]] == [
        ("benign (1)", "malignant (1)", "equal pixels"), ("benign (2)", "malignant (2)", "alike")]
    assert report["notes"][0] == ("1 pair(s) of images, 2 images in all, show the same pixels; 1 of them are in two "
                                  "classes (first: benign (1) and malignant (1))")
    table = pd.read_csv(tmp_path / "out" / "repeats.csv")
    assert table["bits"].tolist() == [0, report["repeats"][1]["bits"]]
    with Image.open(tmp_path / "out" / "repeats.png") as picture:
        assert picture.width > 600
    text = run_command("data", "check", "busi", "--root", root).stdout
    assert "  benign (1) (benign) and malignant (1) (malignant): equal pixels\n" in text


def table_of(cases, patients=None):
    return pd.DataFrame({"case_id": cases, "patient_id": patients or cases, "pathology": ["benign"] * len(cases)})


def pairs_of(*pairs):
    return pd.DataFrame(pairs, columns=["one", "other"]).assign(bits=0, mirrored=False)


def test_groups_by_hand():
    cases = table_of(list("abcdef"), ["p", "p", "q", "r", "s", "t"])
    assert repeats.groups(cases, pairs_of()).tolist() == cases["patient_id"].tolist()
    joined = repeats.groups(cases, pairs_of(("b", "d"), ("d", "f")))  # a is b's patient, so a, b, d and f are one
    assert joined.tolist() == ["p", "p", "q", "p", "s", "p"]


def test_repeats_share_a_fold_and_others_keep_their_rule():
    rng = np.random.default_rng(0)
    cases = table_of([f"c{i:02d}" for i in range(60)]).assign(pathology=rng.choice(["benign", "malignant"], 60))
    plain = folds.split(cases, 5, 0)
    assert folds.split(cases, 5, 0, repeats.groups(cases, pairs_of())).equals(plain)
    pairs = pairs_of(*((f"c{i:02d}", f"c{i + 30:02d}") for i in range(10)))
    assert len(folds.across(plain, pairs)) > 3
    held = folds.split(cases, 5, 0, repeats.groups(cases, pairs))
    assert folds.across(held, pairs).empty and held.value_counts().between(10, 14).all()


def test_a_study_keeps_equal_pictures_of_two_patients_in_one_fold(originals, tmp_path, outputs, capsys):
    from xbuslib.config import resolve
    from xbuslib.runs.source import open_source

    root = dataset(tmp_path / "d", [("benign", n, originals[n]) for n in range(1, 9)]
                   + [("malignant", n, originals[n]) for n in range(1, 9)])
    source = open_source("busi", root, None, resolve("smoke", ["folds=4"]), "s")
    fold_of = source.fold_of
    assert all(fold_of[f"benign ({n})"] == fold_of[f"malignant ({n})"] for n in range(1, 9))
    assert "8 pair(s) of images are equal or look alike" in capsys.readouterr().err
    for k, kinds in enumerate((["benign"], ["malignant"])):
        names = [f"{kind} ({n}).png" for kind in kinds for n in range(1, 9)]
        pd.DataFrame({"Image Name": names}).to_csv(tmp_path / f"val_fold{k}.csv", index=False)
    open_source("busi", root, tmp_path, resolve("smoke", ["folds=2"]), "s")
    assert "8 pair(s) of images that are equal or look alike are in different folds" in capsys.readouterr().err


def test_scores_of_images_that_were_trained_on_say_so_in_every_caption(originals, tmp_path, outputs):
    """Two pictures of the first fold are in the second one under other names: two of its five, and two of four."""
    from xbuslib.config import resolve
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source
    from xbuslib.runs.study import open_study

    root = dataset(tmp_path / "d", [("benign", n, originals[n]) for n in range(1, 8)]
                   + [("malignant", n, originals[n]) for n in (1, 2)])
    lists = ([f"benign ({n})" for n in range(1, 6)], ["benign (6)", "benign (7)", "malignant (1)", "malignant (2)"])
    for k, names in enumerate(lists):
        pd.DataFrame({"Image Name": names}).to_csv(tmp_path / f"val_fold{k}.csv", index=False)
    config = resolve("smoke", ["folds=2", "iterations=1"])
    source = open_source("busi", root, tmp_path, config, "s")
    runs = [run_fold("unet", fold, config, source, study="s") for fold in (0, 1)]
    assert [json.loads((run / "run.json").read_text())["val_divided"] for run in runs] == [2, 2]
    study = open_study("s")
    assert study.label.endswith("on both sides of a fold, by patient or picture: 4 of 9 validation images, no "
                                "pretrained encoder, 2 folds, seed 0")
    assert ("Also among the training images of their fold, by patient or by picture: 4 of 9 validation images. Their "
            "scores are too good.") in study.caveats
    made = open_source("busi", root, None, config, "s")
    assert [made.divided(*made.split(fold)) for fold in (0, 1)] == [0, 0]


def test_pictures_without_a_look_are_compared_by_their_pixels():
    black = np.zeros((80, 80), np.uint8)
    spot = black.copy()
    spot[30:40, 30:40] = 255
    assert repeats.difference_hash(black) == repeats.difference_hash(spot) == repeats.FLAT
    table = pd.DataFrame({"case_id": list("abc"), "pixels": [repeats.digest(image) for image in (black, spot, spot)],
                          "looks": [repeats.FLAT] * 3, repeats.MIRRORED: [repeats.FLAT] * 3})
    assert repeats.within(table)[["one", "other", "bits"]].to_numpy().tolist() == [["b", "c", -1]]


def test_repeats_between_two_datasets(originals, tmp_path):
    one = load("busi", dataset(tmp_path / "a", [("benign", n, originals[n]) for n in range(1, 5)]))
    there = [("malignant", 7, originals[2]), ("malignant", 8, as_jpeg(originals[3], 80)),
             ("malignant", 9, originals[6]), ("malignant", 10, originals[4].transpose(Image.Transpose.FLIP_LEFT_RIGHT))]
    found = repeats.between(one, load("busi", dataset(tmp_path / "b", there)))
    assert found[["one", "other", "what", "other_class"]].to_numpy().tolist() == [
        ["benign (2)", "malignant (7)", "equal pixels", "malignant"],
        ["benign (3)", "malignant (8)", "alike", "malignant"],
        ["benign (4)", "malignant (10)", "mirrored", "malignant"]]
    assert repeats.within(repeats.pictures(one.iloc[:0])).empty


def test_the_pairs_of_an_opened_dataset_in_words_and_in_a_figure(originals, tmp_path, outputs):
    """What notebook 01 shows, of six planted pairs; one of them is a lesion's image among the normal ones."""
    from xbuslib.config import resolve
    from xbuslib.runs.source import open_source

    changed = [lambda image: image, lambda image: as_jpeg(image, 80), PLANTED["brightened"][0], PLANTED["mirrored"][0],
               lambda image: image]
    root = dataset(tmp_path / "d", [("benign", n, originals[n]) for n in range(1, 9)]
                   + [("malignant", n, change(originals[n])) for n, change in enumerate(changed, 1)]
                   + [("normal", 1, originals[8]), ("normal", 2, originals[0])])
    for number in (1, 2):
        Image.new("L", originals[0].size).save(root / "normal" / f"normal ({number})_mask.png")
    source = open_source("busi", root, None, resolve("smoke", ["folds=4"]), "s")
    pairs = shown.of_source(source)
    assert pairs.equals(shown.find("busi", root)) and pairs["bits"].is_monotonic_increasing
    assert list(pairs["what"][:3]) == ["equal pixels"] * 3 and set(pairs["what"][3:]) == {"alike", "mirrored"}
    assert {*zip(pairs["one"], pairs["other"], strict=True)} == {
        *((f"benign ({n})", f"malignant ({n})") for n in range(1, 6)), ("benign (8)", "normal (1)")}

    text = shown.in_words(pairs, source.fold_of)
    assert text.startswith("**Pairs of images that are equal or look alike: 6** (3 equal pixels, 2 alike, 1 mirrored), "
                           "6 of them under two classes. No pair is divided between two folds.")
    differ = pairs.set_index("one")["bits"]["benign (3)"]
    assert text.count("<details>") == 1
    assert f"| benign (3) | benign | malignant (3) | malignant | alike | {differ} |" in text
    apart = source.fold_of.copy()
    apart["malignant (2)"] = 1 - apart["benign (2)"] % 2
    assert "so that a system is scored on an image that it was trained on: 1." in shown.in_words(pairs, apart)
    none = shown.in_words(pairs.iloc[:0], apart)
    assert none == "No two images are equal or look alike, not even with one of them mirrored."

    figure = shown.first_pairs(pairs, "BUSI")
    panels = [axis for axis in figure.axes if axis.images]
    assert len(panels) == 8 and figure.get_suptitle() == "Repeated images: the 4 of 6 pairs most alike"
    for panel, name in zip(panels, pairs[["one", "other"]].head(4).to_numpy().ravel(), strict=True):
        assert panel.get_title().startswith(name)
    assert panels[6].get_title().endswith(f"{pairs['what'][3]}, {pairs['bits'][3]} of 256 bits differ")
    assert np.array_equal(panels[7].images[0].get_array(), read_grey(pairs["other_image"][3]))
    figure.savefig(tmp_path / "figure.png")
