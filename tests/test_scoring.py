"""A folder of masks against another, without the command around it: rows, notes and refusals word for word."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.errors import StudyError
from xbuslib.evaluation.scoring import score_folders


def save(folder, **masks):
    folder.mkdir(exist_ok=True)
    for name, mask in masks.items():
        Image.fromarray(np.uint8(np.array(mask) * 255)).save(folder / f"{name}.png")
    return folder


def square(top, left, side=4, shape=(20, 24)):
    mask = np.zeros(shape, bool)
    mask[top:top + side, left:left + side] = True
    return mask


def test_scores_of_a_folder_by_hand(tmp_path):
    """b: half of the lesion found and as much beside it; a: two lesions, both found; c: no lesion."""
    reference = save(tmp_path / "r", b=square(2, 2), a=square(2, 2) | square(12, 12), c=np.zeros((20, 24)))
    prediction = save(tmp_path / "p", b=square(2, 4), a=square(2, 2) | square(12, 12), c=np.zeros((20, 24)))
    (prediction / "notes.txt").write_text("of mine")
    table = score_folders(reference, prediction, tmp_path / "out" / "scores.csv")
    assert table["case_id"].tolist() == ["a", "b", "c"] and table.columns[0] == "case_id"
    assert table["dice"].tolist()[:2] == pytest.approx([1, 0.5]) and table["iou"].iloc[1] == pytest.approx(8 / 24)
    assert np.isnan(table["dice"].iloc[2]) and table["fpr"].iloc[1] == pytest.approx(8 / (480 - 16))
    assert table.attrs["notes"] == [
        f"{prediction}: 1 file(s) are no pictures and were left out (first: notes.txt)",
        "1 of 3 reference masks hold several lesions, scored together: a (2)",
        "1 reference(s) hold no lesion: Dice, IoU and FNR are undefined there, and their means are over "
        "2 of the 3 images. Two-class Dice and IoU, means over all images, are at most 0.5 there, as the released code "
        "computes them."]
    assert table["dice_two_class"].iloc[2] == table["iou_two_class"].iloc[2] == 0.5
    kept = pd.read_csv(tmp_path / "out" / "scores.csv")
    pd.testing.assert_frame_equal(kept, pd.DataFrame(table.to_dict("list")), check_dtype=False)


def test_more_than_five_masks_with_several_lesions_are_counted(tmp_path):
    masks = {f"m{i}": square(2, 2) | square(12, 12) for i in range(6)}
    table = score_folders(save(tmp_path / "r", **masks), save(tmp_path / "p", **masks), tmp_path / "o.csv")
    assert table.attrs["notes"] == ["6 of 6 reference masks hold several lesions, scored together: "
                                    + ", ".join(f"m{i} (2)" for i in range(5)) + ", …"]


def test_what_does_not_fit_is_listed_and_nothing_is_written(tmp_path):
    reference = save(tmp_path / "r", a=square(2, 2), b=square(2, 2), both=square(2, 2))
    prediction = save(tmp_path / "p", c=square(2, 2), both=square(2, 2))
    with pytest.raises(StudyError) as raised:
        score_folders(reference, prediction, tmp_path / "o.csv")
    assert str(raised.value) == "\n".join([
        "3 mask(s) cannot be scored:",
        f"  a.png: no such file in {prediction}", f"  b.png: no such file in {prediction}",
        f"  c.png: no such file in {reference}"])
    save(prediction, a=square(2, 2, shape=(20, 25)), b=square(2, 2))
    (prediction / "c.png").unlink()
    with pytest.raises(StudyError, match=r"^1 mask\(s\) cannot be scored:\n  .*a\.png: prediction is 25×20 pixels, "
                                          "reference 24×20"):
        score_folders(reference, prediction, tmp_path / "o.csv")
    save(prediction, both=square(2, 2, shape=(21, 24)))
    with pytest.raises(StudyError, match=r"^2 mask\(s\) cannot be scored:(?s:.*)both\.png: prediction is 24×21 pixels"):
        score_folders(reference, prediction, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()
    with pytest.raises(StudyError, match="holds no masks"):
        score_folders(save(tmp_path / "empty"), prediction, tmp_path / "o.csv")


def test_a_long_list_of_faults_is_cut(tmp_path):
    reference = save(tmp_path / "r", **{f"m{i:02d}": square(2, 2) for i in range(23)})
    with pytest.raises(StudyError) as raised:
        score_folders(reference, save(tmp_path / "p", m00=square(2, 2)), tmp_path / "o.csv")
    lines = str(raised.value).splitlines()
    assert lines[0] == "22 mask(s) cannot be scored:" and lines[-1] == "  … and 2 more" and len(lines) == 22
    for found, last in ((2, "  … and 1 more"), (3, "  m22.png: no such file in")):  # 21 and 20 faults
        with pytest.raises(StudyError) as raised:
            score_folders(reference, save(tmp_path / "p", **{f"m{i:02d}": square(2, 2) for i in range(found)}),
                          tmp_path / "o.csv")
        assert str(raised.value).splitlines()[-1].startswith(last)


def test_masks_turned_against_each_other_are_refused(tmp_path):
    reference = save(tmp_path / "r", a=square(2, 2))
    (tmp_path / "p").mkdir()
    image = Image.fromarray(np.uint8(square(2, 2) * 255))
    exif = image.getexif()
    exif[274] = 3
    image.save(tmp_path / "p" / "a.png", exif=exif)
    with pytest.raises(StudyError, match="mask .*Exif orientation"):
        score_folders(reference, tmp_path / "p", tmp_path / "o.csv")


def test_as_drawn(tmp_path):
    reference, prediction = save(tmp_path / "r", a=square(2, 2)), save(tmp_path / "p", a=~square(2, 2))
    with pytest.raises(StudyError, match="bright background"):
        score_folders(reference, prediction, tmp_path / "o.csv")
    table = score_folders(reference, prediction, tmp_path / "o.csv", as_drawn=True)
    assert table["dice"].iloc[0] < 1e-6
    with pytest.raises(StudyError, match="bright background"):  # in the reference as well
        score_folders(prediction, prediction, tmp_path / "o.csv")
    assert score_folders(prediction, prediction, tmp_path / "o.csv", as_drawn=True)["dice"].iloc[0] > 0.999


def test_what_was_left_out_or_assumed_is_reported_of_both_folders(tmp_path):
    reference, prediction = save(tmp_path / "r", a=square(2, 2)), tmp_path / "p"
    prediction.mkdir()
    Image.fromarray(np.uint8(square(2, 2))).save(prediction / "a.png")  # 0 and 1
    (reference / "read.me").write_text("")
    notes = score_folders(reference, prediction, tmp_path / "o.csv").attrs["notes"]
    assert notes[0].startswith(f"{reference}: 1 file(s) are no pictures")
    assert notes[1].startswith(f"{prediction}: 1 of 1 masks") and len(notes) == 2
