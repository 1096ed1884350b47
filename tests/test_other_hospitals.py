"""BUSI and BUS-BRA: hand-made copies of their published layouts, and the real samples where they are at hand."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.data import catalogue, folds, images
from xbuslib.data.cases import lesions
from xbuslib.data.check import check
from xbuslib.errors import StudyError


def picture(path, box=None, shape=(40, 60)):
    pixels = np.zeros(shape, np.uint8)
    if box:
        top, left, bottom, right = box
        pixels[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def busi(tmp_path):
    root = tmp_path / "busi & more"  # the names of further masks are joined by "&"
    for name in ("benign (2)", "benign (10)", "malignant (1)", "normal (3)"):
        picture(root / "Dataset_BUSI_with_GT" / name.split()[0] / f"{name}.png", (12, 12, 30, 40))
    place = root / "Dataset_BUSI_with_GT"
    picture(place / "benign" / "benign (2)_mask.png", (5, 5, 10, 10))
    picture(place / "benign" / "benign (2)_mask_1.png", (20, 30, 30, 50))
    picture(place / "benign" / "benign (10)_mask.png", (5, 5, 10, 25))
    picture(place / "malignant" / "malignant (1)_mask.png", (0, 0, 20, 20))
    picture(place / "normal" / "normal (3)_mask.png")
    return root


@pytest.fixture
def busbra(tmp_path):
    root = tmp_path / "busbra"
    rows = [("bus_0001-l", 1, "cyst", "benign", 2, "Logiq 5", "left"),
            ("bus_0001-r", 1, "carcinoma", "malignant", 4, "Logiq 5", "right")]
    for name, *_ in rows:
        picture(root / "Images" / f"{name}.png", (5, 5, 15, 25))
        picture(root / "Masks" / f"{name.replace('bus', 'mask')}.png", (5, 5, 15, 25))
    table = pd.DataFrame(rows, columns=["ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Side"])
    table.to_csv(root / "bus_data.csv", index=False)
    return root


def test_several_busi_masks_are_one_union(busi, tmp_path):
    table = catalogue.load("busi", busi)
    assert list(table["case_id"]) == ["benign (2)", "benign (10)", "malignant (1)", "normal (3)"]
    prepared = images.prepare(lesions(table), 64, tmp_path / "p")
    row = prepared.rows(["benign (2)"])[0]
    assert tuple(prepared.boxes[row]) == (45, 25)  # columns 5–49, rows 5–29 of both parts together
    expected = 25 + 200  # pixels of the parts
    y, x = prepared.centroids[row][::-1]
    assert x == pytest.approx((25 * 7 + 200 * 39.5) / expected) and y == pytest.approx((25 * 7 + 200 * 24.5) / expected)
    report = check("busi", busi)
    assert (report["images"], report["lesions"], report["normals"]) == (4, 3, 1)
    assert report["multi_lesion_cases"] == ["benign (2)"] and not report["problems"]


def test_a_changed_second_mask_is_another_dataset(busi):
    table = catalogue.load("busi", busi)
    before = images.source_fingerprint(table, 64)
    picture(busi / "Dataset_BUSI_with_GT" / "benign" / "benign (2)_mask_1.png", (20, 30, 30, 40))
    assert images.source_fingerprint(table, 64) != before


def test_busi_faults_are_named(busi):
    picture(busi / "Dataset_BUSI_with_GT" / "normal" / "normal (3)_mask.png", (1, 1, 5, 5))
    (busi / "Dataset_BUSI_with_GT" / "malignant" / "malignant (1)_mask.png").unlink()
    with pytest.raises(StudyError, match=r"(?s)malignant \(1\): no file.*normal \(3\): a normal image whose mask"):
        catalogue.load("busi", busi)
    assert check("busi", busi)["problems"]


def test_a_busi_mask_of_another_size(busi):
    picture(busi / "Dataset_BUSI_with_GT" / "benign" / "benign (2)_mask_1.png", (1, 1, 5, 5), (30, 30))
    assert any(r"benign (2)_mask_1.png is 30×30" in problem for problem in check("busi", busi)["problems"])


def test_busbra_keeps_a_patient_together_and_invents_nothing(busbra):
    table = catalogue.load("busbra", busbra)
    assert list(table["patient_id"]) == ["1", "1"] and list(table["birads"]) == ["2", "4"]
    assert table[["shape", "margin", "pixel_mm"]].isna().all().all() and set(table["device"]) == {"Logiq 5"}
    with pytest.raises(StudyError, match="1 patients cannot fill 2 folds"):
        folds.split(table, folds=2)


def test_busbra_faults_are_named(busbra):
    (busbra / "Masks" / "mask_0001-r.png").unlink()
    with pytest.raises(StudyError, match="bus_0001-r, mask: .*no such file"):
        catalogue.load("busbra", busbra)
    table = pd.read_csv(busbra / "bus_data.csv").drop(columns="Pathology")
    table.to_csv(busbra / "bus_data.csv", index=False)
    with pytest.raises(StudyError, match="missing column.s. Pathology"):
        catalogue.load("busbra", busbra)
    (busbra / "bus_data.csv").unlink()
    with pytest.raises(StudyError, match=r"no bus_data\.csv"):
        catalogue.load("busbra", busbra)


@pytest.mark.parametrize("name", ["busi", "busbra"])
def test_the_real_samples(name, samples):
    report = check(name, samples[name])
    assert report["images"] == 40 and not report["problems"]
    assert report["benign"] + report["malignant"] == report["lesions"]
