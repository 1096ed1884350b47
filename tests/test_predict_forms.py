"""Images as users name and open them, segmented by a run that was trained on every lesion."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

import xbuslib
from tests.test_reading import RAMP, dicom
from xbuslib.errors import StudyError
from xbuslib.lesion import page, reading
from xbuslib.lesion.structured_report import PromptRow


@pytest.fixture
def run(elsewhere):
    """The folder of UNet, trained by `--folds all`."""
    return elsewhere / "elsewhere" / "runs" / "unet"


def test_a_run_trained_on_all_and_files_named_by_uids(run, run_command, tmp_path):
    """The last number of a UID is no suffix; what was trained on all folds has "all" as its fold."""
    names = ["1.2.840.113619.2.55.1", "1.2.840.113619.2.55.2", "scan.DCM"]
    files = [dicom(tmp_path / name, RAMP // (1 + number)) for number, name in enumerate(names)]
    done = run_command("predict", *files, "--run", run, "--out", tmp_path / "out")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names[:2], "scan"]
    assert done.stderr.count("trained on a simulated phantom, not on patients") == 1  # of three files
    printed = run_command("predict", files[2], "--run", run, "--out", tmp_path / "out", "--json")
    assert "trained on a simulated phantom, not on patients" in json.loads(printed.stdout)[0]["notes"][0]
    for name in names:
        folder = tmp_path / "out" / name.removesuffix(".DCM")
        report = json.loads((folder / "report.json").read_text())
        assert report["image"]["file"] == name and report["model"]["folds"] == ["all"]
        assert report["prompts"][0]["fold"] == "all" and page.read(folder)[0].model.folds == ["all"]
        assert np.load(folder / "maps.npz", allow_pickle=False)["folds"].tolist() == ["all"]
        assert "fold\nall, seed 0" in (folder / "report.html").read_text()
    report = page.read(folder)[0]
    rows = [PromptRow(fold=fold, seed=0, global_text=text)
            for fold, text in (("all", "a"), (10, "a"), (2, "a"), (1, "b"))]
    assert page.prompt_texts(report.model_copy(update={"prompts": rows})) == [
        ("global", "a", "fold 2, 10, all"), ("global", "b", "fold 1")]


def test_files_whose_results_would_share_a_folder(run, run_command, tmp_path):
    for name in ("1.2.3", "1.2.3.dcm"):
        dicom(tmp_path / name, RAMP)
    done = run_command("predict", tmp_path / "1.2.3", tmp_path / "1.2.3.dcm", "--run", run, "--out", tmp_path / "out")
    assert done.returncode == 1 and "would all go to a folder 1.2.3;" in done.stderr


def test_an_opened_image_is_read_as_its_file(run, tmp_path):
    """12-bit levels in a PNG with 16 bits a channel, of which Pillow keeps 8: at most grey 14."""
    deep = np.arange(64 * 64).astype(np.uint16).reshape(64, 64)
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.dstack([deep] * 3))
    with Image.open(path) as image:
        found = xbuslib.segment(image, run=run, pixel_mm=0.1, crop="0,0,40,64")
    assert np.array_equal(found.picture.grey, reading.read(path).grey[:, :40]) and found.picture.grey.max() > 250
    assert found.picture.name == "deep" and found.picture.pixel_mm == (0.1, 0.1)
    with pytest.raises(StudyError, match="image has 16 bits a channel, .* give the path of its file"):
        xbuslib.segment(Image.open(io.BytesIO(path.read_bytes())), run=run)


def test_an_opened_image_that_is_cut_off(run, tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    for image in (Image.open(path), Image.open(io.BytesIO(path.read_bytes()))):
        with pytest.raises(StudyError, match=r"(cut.png|image) is damaged or cut off"):
            xbuslib.segment(image, run=run)


def test_the_frame_at_which_an_opened_image_stands(run, tmp_path):
    frames = [Image.fromarray(RAMP // part) for part in (1, 2, 3)]
    frames[0].save(tmp_path / "clip.tif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "clip.tif") as image:
        image.seek(1)
        found = xbuslib.segment(image, run=run)
    assert np.array_equal(found.picture.grey, RAMP // 2) and "Frame 2 of 3." in found.notes
