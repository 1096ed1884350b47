"""One lesion stored in every way that masks are stored: read alike through the loaders and `xbuslib score`, or refused.

The lesion is drawn by a formula; what is right is that drawing, not the reader's own output.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import refused
from xbuslib.data import check, images, masks
from xbuslib.data.cases import lesions
from xbuslib.data.catalogue import load
from xbuslib.errors import StudyError

Y, X = np.mgrid[:72, :96]
LESION = ((X - 40) / 22) ** 2 + ((Y - 33) / 14) ** 2 < 1  # (72, 96)
COLOURS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128), (128, 128, 0), (0, 128, 128)]
SECOND = (X > 75) & (X < 85) & (Y > 50) & (Y < 62)


def grey(values, mode=None):
    return Image.fromarray(values) if mode is None else Image.fromarray(values, mode)


def palette(mask, colours):
    image = Image.fromarray(mask.astype(np.uint8), "L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([value for colour in colours for value in colour])
    return image


def rgba(colour, alpha):
    return Image.fromarray(np.dstack([np.broadcast_to(colour, (*LESION.shape, 3)), alpha]).astype(np.uint8))


def blurred(top):
    from PIL import ImageFilter

    return Image.fromarray(np.uint8(LESION * top)).filter(ImageFilter.GaussianBlur(2))


WAYS = {  # name: (image, suffix, key of masks.KINDS or "" where nothing had to be assumed)
    "one bit": (lambda: Image.fromarray(LESION), "png", ""),
    "0 and 255": (lambda: grey(np.uint8(LESION * 255)), "png", ""),
    "0 and 1": (lambda: grey(np.uint8(LESION)), "png", "two"),
    "0 and 128": (lambda: grey(np.uint8(LESION * 128)), "png", "two"),
    "label 2": (lambda: grey(np.uint8(LESION * 2)), "bmp", "two"),
    "1 and 2": (lambda: grey(np.uint8(LESION + 1)), "png", "two"),
    "16 bits, 1": (lambda: grey(np.uint16(LESION)), "png", "two"),
    "16 bits, 65535": (lambda: grey(np.uint16(LESION * 65535)), "tif", ""),
    "32 bits": (lambda: grey(np.int32(LESION * 7)), "tif", "two"),
    "float": (lambda: grey(np.float32(LESION)), "tif", "two"),
    "red": (lambda: grey(np.uint8(np.dstack([LESION * 255, LESION * 0, LESION * 0]))), "png", "two"),
    "one in red": (lambda: grey(np.uint8(np.dstack([LESION, LESION * 0, LESION * 0]))), "png", "channel"),
    "palette": (lambda: palette(LESION, [(0, 0, 0), (128, 0, 0)]), "png", "palette"),
    "palette, dark": (lambda: palette(LESION, [(0, 0, 0), (0, 0, 0)]), "png", "palette"),
    "palette, bright index 0": (lambda: palette(LESION, [(255, 255, 0), (0, 0, 128)]), "png", "palette"),
    "palette, 1 and 2": (lambda: palette(LESION + 1, COLOURS[:3]), "png", "palette"),
    "palette, 0 to 2": (lambda: palette(LESION * 1 + (LESION & (X > 40)), COLOURS[:3]), "png", "palette"),
    "palette, thin line of 2": (lambda: palette(1 + LESION * 4 - 3 * (LESION & (X == 40)), COLOURS), "png", "palette"),
    "grey palette": (lambda: palette(LESION, [(0, 0, 0), (255, 255, 255)]), "gif", ""),
    "alpha alone": (lambda: rgba((255, 255, 255), LESION * 255), "png", "alpha"),
    "black with alpha": (lambda: rgba((0, 0, 0), LESION * 255), "png", "alpha"),
    "labels": (lambda: grey(np.uint8(LESION + (LESION & (X > 40)) * 2)), "png", "labels"),
    "bright labels": (lambda: grey(np.uint8(LESION * 60 + (LESION & (X > 40)) * 195)), "png", "labels"),
}


def written(folder, name):
    make, suffix, kind = WAYS[name]
    path = folder / f"a.{suffix}"
    make().save(path)
    return path, kind


@pytest.mark.parametrize("name", WAYS)
def test_two_values_are_two_values_however_stored(name, tmp_path):
    path, kind = written(tmp_path, name)
    found = masks.read(path)
    assert np.array_equal(found.pixels, LESION)
    assert [key for key, _ in found.assumed if key != "two"] == [kind] * (kind not in ("", "two"))
    assert kind != "two" or found.assumed[0][0] == "two"
    if not kind:
        assert found.assumed == ()


def test_sixteen_bit_colours(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([LESION] * 3).astype(np.uint16))  # of which Pillow keeps no bit
    assert np.array_equal(masks.read(tmp_path / "a.png").pixels, LESION)


def test_soft_masks_at_half_of_their_maximum(tmp_path):
    for top in (255, 200, 90):
        blurred(top).save(tmp_path / "a.png")
        found, values = masks.read(tmp_path / "a.png"), np.asarray(blurred(top)).astype(float)
        assert np.array_equal(found.pixels, values >= values.max() / 2) and found.assumed == (("soft", ""),)
        assert 2 * (found.pixels & LESION).sum() / (found.pixels.sum() + LESION.sum()) > 0.95
    Image.fromarray(np.uint8(LESION * 255)).save(tmp_path / "a.jpg", quality=80)
    found = masks.read(tmp_path / "a.jpg")
    assert np.array_equal(found.pixels, LESION) and found.assumed == (("soft", ""),)


NOISE = np.random.default_rng(0).integers(60, 200, LESION.shape).astype(np.uint8)
REFUSED = {
    "white background": (lambda: grey(np.uint8(~LESION * 255)), "png", "dark lesion on a bright background"),
    "inverted labels": (lambda: grey(np.uint8(~LESION)), "png", "bright background"),
    "transparent lesion": (lambda: rgba((255, 255, 255), ~LESION * 255), "png", "bright background"),
    "white everywhere": (lambda: grey(np.full(LESION.shape, 255, np.uint8)), "png", "one value everywhere"),
    "a picture": (lambda: grey(NOISE), "png", "looks like a picture"),
    "logits": (lambda: grey(np.float32(LESION * 8.0 - 4)), "tif", "negative values"),
    "not a number": (lambda: grey(np.where(LESION, np.nan, 0).astype(np.float32)), "tif", "not numbers"),
    "label in a JPEG": (lambda: grey(np.uint8(LESION * 9)), "jpg", "compression"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_be_read_in_two_ways_is_refused_by_name(name, tmp_path):
    make, suffix, words = REFUSED[name]
    make().save(tmp_path / f"odd.{suffix}")
    with pytest.raises(StudyError, match=rf"odd\.{suffix}.*{words}"):
        masks.read(tmp_path / f"odd.{suffix}")


def test_several_frames_and_another_size_are_refused(tmp_path):
    frames = [Image.fromarray(np.uint8(LESION * value)) for value in (1, 2)]
    frames[0].save(tmp_path / "two.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(StudyError, match=r"two\.tif holds 2 frames"):
        masks.read(tmp_path / "two.tif")
    Image.fromarray(LESION).save(tmp_path / "a.png")
    for frame, words in (((192, 144), "the same aspect at another size"), ((96, 96), "another aspect")):
        with pytest.raises(StudyError, match=f"a.png is 96×72 pixels, its image is {frame[0]}×{frame[1]}: {words}"):
            masks.union([tmp_path / "a.png"], frame)


def test_lesions_that_touch_the_edge_stay_lesions(tmp_path):
    """All of the lower half: two corners and half of the edge."""
    half = Y > 35
    Image.fromarray(half).save(tmp_path / "a.png")
    assert np.array_equal(masks.read(tmp_path / "a.png").pixels, half)
    Image.fromarray(~LESION).save(tmp_path / "b.png")
    drawn = masks.read(tmp_path / "b.png", as_drawn=True)
    assert np.array_equal(drawn.pixels, ~LESION) and drawn.assumed == (("drawn", ""),)


def test_lesions_are_counted_and_parts_joined(tmp_path):
    Image.fromarray(np.uint8(LESION)).save(tmp_path / "a.png")
    Image.fromarray(SECOND).save(tmp_path / "b.png")
    mask, assumed = masks.union([tmp_path / "a.png", tmp_path / "b.png"], (96, 72))
    assert np.array_equal(mask, LESION | SECOND) and masks.regions(mask) == 2 and masks.regions(LESION) == 1
    assert masks.sentences(assumed) == ["1 of 2 masks hold two values other than 0 and 255 (0 and 1): the higher one "
                                        "is the lesion (first: a.png)"]


# ---- the same through the doors -------------------------------------------------------------------------------


def test_score_reads_each_way_and_says_so_once(tmp_path, run_command):
    for folder in ("reference", "prediction"):
        (tmp_path / folder).mkdir()
    for index, (make, suffix, _) in enumerate(WAYS.values()):
        Image.fromarray(np.uint8(LESION * 255)).save(tmp_path / "reference" / f"{index:02d}.png")
        make().save(tmp_path / "prediction" / f"{index:02d}.{suffix.upper()}")
    blurred(255).save(tmp_path / "prediction" / "soft.png")
    Image.fromarray(LESION | SECOND).save(tmp_path / "reference" / "soft.png")
    (tmp_path / "prediction" / "._00.png").write_bytes(b"Mac OS X")
    (tmp_path / "prediction" / "notes.txt").write_text("of mine")
    given = ("score", "--reference", tmp_path / "reference", "--prediction", tmp_path / "prediction", "--out",
             tmp_path / "o.csv")
    done = run_command(*given, "--json")
    assert done.returncode == 0, done.stderr
    row, = json.loads(done.stdout)
    assert row["images"] == len(WAYS) + 1
    import pandas as pd

    table = pd.read_csv(tmp_path / "o.csv", dtype={"case_id": str}).set_index("case_id")
    assert (table.drop(index="soft")["dice"] > 1 - 1e-6).all() and 0.8 < table.loc["soft", "dice"] < 0.97
    notes = "\n".join(row["notes"])
    for words in (f"9 of {len(WAYS) + 1} masks hold two values other than 0 and 255 (0 and 1; 0 and 128;",
                  f"1 of {len(WAYS) + 1} masks have grey values between", "1 file(s) are no pictures", "soft (2)"):
        assert words in notes, notes
    assert notes.count("half of their maximum") == 1
    shown = run_command(*given)
    assert shown.stderr.count("half of their maximum") == 1


def test_score_refuses_a_white_background_unless_told(tmp_path, run_command):
    for folder, mask in (("reference", LESION), ("prediction", ~LESION)):
        (tmp_path / folder).mkdir()
        Image.fromarray(mask).save(tmp_path / folder / "a.png")
    given = ("score", "--reference", tmp_path / "reference", "--prediction", tmp_path / "prediction", "--out",
             tmp_path / "o.csv", "--json")
    refused(run_command(*given), "prediction/a.png", "bright background")
    assert not (tmp_path / "o.csv").exists()
    row, = json.loads(run_command(*given, "--as-drawn").stdout)
    assert row["dice"] < 1e-6 and "read as drawn" in row["notes"][0]


def busi(folder, masks_of, pictures=None):
    """A folder in BUSI's layout: masks_of[k] is the mask image of benign (k+1), pictures[k] its picture."""
    (folder / "benign").mkdir(parents=True)
    for index, mask in enumerate(masks_of):
        picture = np.random.default_rng(index).integers(0, 255, (72, 96)).astype(np.uint8)
        name = f"benign ({index + 1})"
        (pictures[index] if pictures else Image.fromarray(picture)).save(folder / "benign" / f"{name}.png")
        mask.save(folder / "benign" / f"{name}_mask.png")
    return folder


def test_a_dataset_of_labels_is_prepared_and_its_reading_said_and_kept(tmp_path, capsys):
    root = busi(tmp_path / "busi", [grey(np.uint8(LESION)), blurred(200), Image.fromarray(LESION | SECOND)])
    report = check.check("busi", root)
    assert report["problems"] == [] and report["several_regions"] == {"benign (3)": 2}
    assert [note.split(" (")[0] for note in report["notes"]] == [
        "1 of 3 masks hold two values other than 0 and 255", "1 of 3 masks have grey values between background and "
        "lesion: read at half of their maximum"]
    prepared = images.prepare(lesions(load("busi", root)), 64, tmp_path / "p")
    assert "note: 1 of 3 masks hold two values" in capsys.readouterr().err
    assert prepared.masks[0].sum() == prepared.masks[2, :, :48].sum() > 100  # the same lesion, the second apart
    assert json.loads((tmp_path / "p" / images.READINGS).read_text("utf-8")) == report["notes"]


def test_a_dataset_folder_in_upper_case_with_what_macos_adds(tmp_path):
    root = busi(tmp_path / "busi", [Image.fromarray(LESION)] * 3)
    for path in (root / "benign").glob("*.png"):
        shutil.move(path, path.with_suffix(".PNG"))
    (root / "benign" / "._benign (1).png").write_bytes(b"Mac OS X")
    (root / "benign" / "._benign (1)_mask.png").write_bytes(b"Mac OS X")
    Image.fromarray(LESION).save(root / "benign" / "benign (1) copy.png")
    report = check.check("busi", root)
    assert (report["images"], report["problems"]) == (3, [])
    assert report["notes"] == ["1 picture file(s) are neither image nor mask by their names and were left out (first: "
                               "benign/benign (1) copy.png)"]


def test_sixteen_bit_pictures_keep_their_levels(tmp_path):
    ramp = np.linspace(100, 4000, 72 * 96).astype(np.uint16).reshape(72, 96)
    root = busi(tmp_path / "busi", [Image.fromarray(LESION)], [Image.fromarray(ramp)])
    path = root / "benign" / "benign (1).png"
    expected = (ramp - 100.0) * 255 / 3900
    assert np.abs(images.read_grey(path) - expected).max() <= 0.51 and len(np.unique(images.read_grey(path))) == 256
    assert check.check("busi", root)["notes"][0].startswith("1 of 1 images have more than 8 bits")


def test_transparent_parts_of_sixteen_bit_colours_are_black_and_reported(tmp_path, monkeypatch):
    import cv2

    ramp = np.linspace(100, 60000, 72 * 96).astype(np.uint16).reshape(72, 96)
    ramp[:10] = 65535  # bright, and hidden
    root = busi(tmp_path / "busi", [Image.fromarray(LESION)])
    path = root / "benign" / "benign (1).png"
    for alpha, transparent in ((np.select([Y < 10, Y < 20], [0, 32768], 65535), 1), (np.full(Y.shape, 65535), 0)):
        cv2.imwrite(str(path), np.dstack([ramp, ramp, ramp, alpha.astype(np.uint16)]))
        shown = ramp * (alpha / 65535)
        expected = (shown - shown.min()) * 255 / np.ptp(shown)
        assert np.abs(images.read_grey(path) - expected).max() <= 0.51
        notes = [note for note in check.check("busi", root)["notes"] if "alpha channel: transparent" in note]
        assert len(notes) == transparent
    fingerprint = images.source_fingerprint(load("busi", root), 64)
    monkeypatch.setattr(images, "_rule", lambda content: b"")  # as when transparency of these was not read
    assert images.source_fingerprint(load("busi", root), 64) != fingerprint


def test_a_lesion_that_is_too_small_for_one_profile_is_a_note_and_for_all_a_problem(tmp_path, run_command):
    """13×12 pixels in a frame of 1024×768, which the smaller profiles' grid of 16×12 pixels steps over."""
    small, single = np.zeros((768, 1024), bool), np.zeros((768, 1024), bool)
    small[7:19, 9:22], single[0, 2] = True, True
    picture = Image.fromarray(np.random.default_rng(9).integers(0, 255, small.shape).astype(np.uint8))
    root = busi(tmp_path / "busi", [Image.fromarray(small)] * 2, [picture] * 2)
    done = run_command("data", "check", "busi", "--root", root, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["problems"] == [] and report["size_bins"]["<=110"] == 2
    assert report["notes"][-1] == ("2 lesion(s) vanish at 64×64 pixels, the image_size of profile quick and smoke "
                                   "(first: benign (1)); set a larger image_size there")
    assert [(pair["one"], pair["other"]) for pair in report["repeats"]] == [("benign (1)", "benign (2)")]
    assert len(images.prepare(load("busi", root), 160, tmp_path / "p").masks) == 2
    Image.fromarray(single).save(root / "benign" / "benign (2)_mask.png")
    assert check.check("busi", root)["problems"] == [
        "benign (2): the lesion vanishes at 352×352 pixels; use a larger image_size"]


def test_a_turned_mask_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    root = busi(tmp_path / "busi", [Image.fromarray(np.uint8(LESION * 255))])
    Image.fromarray(np.uint8(LESION * 255)).save(root / "benign" / "benign (1)_mask.png", exif=exif)
    assert "Exif orientation 3, its image 1" in check.check("busi", root)["problems"][0]


def test_masks_of_blu_are_those_over_127(blu_root):
    for case in lesions(load("blu", blu_root)).itertuples():
        with Image.open(case.mask) as image:
            assert np.array_equal(images.read_mask(case.mask), np.asarray(image.convert("L")) > 127)
