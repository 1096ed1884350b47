"""Nothing of a validation image reaches the training, and no reference mask the prompts that must not know one.

Section 2.7: "Quantiles and thresholds are fixed a priori per fold using only the corresponding training split."
"""

import shutil

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from oracles import painted
from oracles.painted import about, measured, place_of, size_class, thirds
from xbuslib.config import resolve
from xbuslib.data import folds
from xbuslib.prompts import words
from xbuslib.runs import record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source
from xbuslib.runs.trained import Trained

RUN = ["iterations=2", "folds=2", "amp=false", "image_size=32"]


@pytest.fixture(scope="module", autouse=True)
def outputs(tmp_path_factory):
    """One folder for all of these tests: a run that two of them need is made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield


@pytest.fixture(scope="module")
def root(phantom_root, tmp_path_factory):
    """20 painted cases, 19 of them with a lesion, and the lists of two folds beside them."""
    root = painted.paint(phantom_root, tmp_path_factory.mktemp("leaks") / "data")
    names = [path.stem.removesuffix("_tumor") for path in sorted(root.rglob("case*_tumor.png"))]
    painted.fold_lists(root.parent / "folds", names)
    return root


def run(system: str, data, *settings: str, fold: int = 0, name: str = "painted-uniform"):
    """(source, run folder) of one fold with the folds of the painted cases; at once where study `name` has it."""
    config = resolve("smoke", [*RUN, *settings])
    lists = next(parent / "folds" for parent in data.parents if (parent / "folds").is_dir())
    source = open_source("phantom", data, lists, config, name)
    return source, run_fold(system, fold, config, source, study=name)


def lengths_and_words(cases: pd.DataFrame) -> dict[str, tuple[int, str]]:
    """Longest side and quadrant of each case's lesion, from its mask's file."""
    found = {}
    for row in cases.itertuples():
        mask = np.asarray(Image.open(row.mask)) > 127
        box, centroid = measured(mask)
        found[row.case_id] = max(box), place_of(centroid, mask.shape[1], mask.shape[0])
    return found


def scored(folder, policy: str, attributes: str = "metadata") -> pd.DataFrame:
    table = pd.read_csv(folder / "per_image.csv", keep_default_na=False)
    return table[(table["policy"] == policy) & (table["attributes"] == attributes)].set_index("case_id")


# ---- size classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [0, 1])
def test_size_classes_are_those_of_the_training_fold(root, monkeypatch, fold):
    """Lesions of fold 0 are much longer than those of fold 1, so the tertiles of all cases would say other words."""
    system = painted.register(monkeypatch)
    source, folder = run("brightness", root, fold=fold, name="classes")
    training, validation = source.split(fold)
    known = lengths_and_words(source.cases)
    edges = thirds([known[case][0] for case in training["case_id"]])
    of_all = thirds([length for length, _ in known.values()])
    assert record.read(folder)["size_edges_px"] == pytest.approx(edges)
    assert max(abs(a - b) for a, b in zip(edges, of_all, strict=True)) > 10
    reference = scored(folder, "reference")
    assert {case: row["global_text"] for case, row in reference.iterrows()} == {
        case: about(size_class(known[case][0], edges), known[case][1]) for case in validation["case_id"]}
    assert any(size_class(known[case][0], edges) != size_class(known[case][0], of_all) for case in known)
    said = {text for training, _, text, *_ in system[0].seen if training and text.split()[1] in words.SIZES}
    assert said <= {about(size_class(known[case][0], edges), place) for case in training["case_id"]
                    for place in (None, known[case][1])}


def test_a_saved_run_keeps_its_size_classes(root, monkeypatch):
    """Whatever cases it predicts: here those of both folds together."""
    painted.register(monkeypatch)
    source, folder = run("brightness", root, name="classes")
    trained, known = Trained.load(folder), lengths_and_words(source.cases)
    edges = thirds([known[case][0] for case in source.split(0)[0]["case_id"]])
    trained.predict(source.cases, source.prepared, "reference", "none")
    assert [text for _, _, text, *_ in trained.predictor.system.seen] == [
        about(size_class(length, edges), place) for length, place in known.values()]


# ---- folds --------------------------------------------------------------------------------------------------


def hospital(folder, phantom_cases: pd.DataFrame):
    """The phantom's lesions as BUS-BRA publishes them, those of two neighbouring cases being one patient's."""
    (folder / "Images").mkdir(parents=True)
    (folder / "Masks").mkdir()
    rows = []
    for number, row in enumerate(phantom_cases.itertuples()):
        shutil.copy(row.image, folder / "Images" / f"bus_{number:04d}-l.png")
        shutil.copy(row.mask, folder / "Masks" / f"mask_{number:04d}-l.png")
        rows.append({"ID": f"bus_{number:04d}-l", "Case": number // 2, "Histology": "x", "Device": "d", "Side": "left",
                     "Pathology": "malignant" if number // 2 % 3 == 0 else "benign", "BIRADS": 4})
    pd.DataFrame(rows).to_csv(folder / "bus_data.csv", index=False)
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_no_patient_is_on_both_sides(root, tmp_path, seed):
    """Folds are disjoint, they hold every case once, and a patient's images stay together."""
    config = resolve("smoke", ["folds=3", f"folds_seed={seed}"])
    phantom = open_source("phantom", root, None, config, "one")
    source = open_source("busbra", hospital(tmp_path / "hospital", phantom.cases), None, config, "two")
    assert source.cases["patient_id"].value_counts().max() == 2
    for held in (phantom, source):
        validated: list[str] = []
        for fold in range(3):
            training, validation = held.split(fold)
            assert not set(training["case_id"]) & set(validation["case_id"])
            assert not set(training["patient_id"]) & set(validation["patient_id"])
            assert len(training) + len(validation) == len(held.cases)
            validated += list(validation["case_id"])
        assert sorted(validated) == sorted(held.cases["case_id"])


def test_the_split_asks_for_patients_not_for_images():
    """Of four images per patient, drawn together; and there must be a patient for each fold."""
    cases = pd.DataFrame({"case_id": [f"c{i}" for i in range(40)], "patient_id": [f"p{i % 10}" for i in range(40)],
                          "pathology": ["malignant" if i % 10 < 4 else "benign" for i in range(40)]})
    fold_of = folds.split(cases, 5, 1)
    assert cases.groupby("patient_id")["case_id"].agg(lambda ids: fold_of[ids].nunique()).eq(1).all()
    assert fold_of.value_counts().eq(8).all()


def test_training_sees_training_images_alone(root, monkeypatch):
    """Of each fold, and all of them; in validation the others, and no normal image in either."""
    made = painted.register(monkeypatch)
    for fold in (0, 1):
        source, _ = run("brightness", root, "iterations=12", fold=fold, name="seen")
        pictures = {source.prepared.images[row].astype(np.float32).tobytes(): case
                    for row, case in enumerate(source.prepared.case_ids)}
        seen = {True: set(), False: set()}
        for training, image, *_ in made[-1].seen:
            seen[training].add(pictures[np.rint(255 * image).astype(np.float32).tobytes()])
        training, validation = source.split(fold)
        assert seen == {True: set(training["case_id"]), False: set(validation["case_id"])}


# ---- what is altered in validation changes nothing in training ----------------------------------------------


def altered(root, folder, masks: bool = False, images: int = 0, findings: bool = False):
    """A copy of the data in which fold 0's validation masks are small squares in a corner, its first `images` images
    are negatives, and all of its findings are others."""
    copy = folder / "altered"
    shutil.copytree(root, copy)
    shutil.copytree(root.parent / "folds", folder / "folds")
    even = sorted(copy.rglob("case*_tumor.png"))[::2]
    for number, path in enumerate(even):
        picture = path.with_name(path.name.replace("_tumor", ""))
        if masks:
            mask = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
            mask[-13:-2, -14:-1] = 255
            Image.fromarray(mask).save(path)
        if number < images:
            Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)
    if findings:
        table, = copy.glob("*.xlsx")
        book = openpyxl.load_workbook(table)
        sheet = book.worksheets[0]
        at = {cell.value: cell.column for cell in sheet[1]}
        names = {path.name for path in even}
        for row in range(2, sheet.max_row + 1):
            if sheet.cell(row, at["Mask_tumor_filename"]).value in names:
                for column, value in (("Shape", "round"), ("Margin", "not circumscribed - angular"), ("BIRADS", "5")):
                    sheet.cell(row, at[column]).value = value
        book.save(table)
    return copy


@pytest.mark.parametrize("system, recipe", [("xbusnet", "uniform"), ("xbusnet", "strong"), ("bussam", "uniform"),
                                            ("cliptnseg", "official")])
def test_validation_changes_no_weight(root, tmp_path, system, recipe):
    """Masks, images and findings of the validation fold altered: the weights that training saved are the same, to the
    last bit; so are the size classes."""
    _, before = run(system, root, f"recipe={recipe}", name=f"painted-{recipe}")
    data = altered(root, tmp_path, masks=True, images=10, findings=True)
    _, after = run(system, data, f"recipe={recipe}", name=f"altered-{recipe}")
    assert record.read(before)["size_edges_px"] == record.read(after)["size_edges_px"]
    assert record.read(before)["dataset_fingerprint"] != record.read(after)["dataset_fingerprint"]
    one, two = (load_file(folder / "weights.safetensors") for folder in (before, after))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    one, two = record.probabilities(before), record.probabilities(after)
    assert one.keys() == two.keys() and not any(np.array_equal(one[case], two[case]) for case in one)


@pytest.mark.parametrize("system", ["xbusnet", "bussam"])
def test_no_validation_mask_reaches_first_pass_or_none(root, tmp_path, system):
    """With the validation masks altered, prompts and probabilities of these policies are the same to the last bit;
    those of the policies that read masks are not."""
    source, before = run(system, root)
    other, after = run(system, altered(root, tmp_path, masks=True), name="other-masks")
    columns = ["global_text", "local_text"] if system == "xbusnet" else ["x", "y"]
    one, two = record.probabilities(before), record.probabilities(after)  # of first_pass
    assert one.keys() == two.keys() and all(np.array_equal(one[case], two[case]) for case in one)
    trained = [(Trained.load(folder), held) for folder, held in ((before, source), (after, other))]
    for attributes in ("metadata", "none") if system == "xbusnet" else ("none",):
        for policy in ("first_pass", "none"):
            a, b = scored(before, policy, attributes), scored(after, policy, attributes)
            assert len(a) == 10 and a[columns].equals(b[columns])
            maps = [each.predict(held.split(0)[1], held.prepared, policy, attributes) for each, held in trained]
            assert np.array_equal(*maps) and np.ptp(maps[0]) > 0
    for policy in ("reference", "paper") if system == "xbusnet" else ("reference",):
        a, b = (scored(folder, policy, "metadata" if system == "xbusnet" else "none") for folder in (before, after))
        assert (a[columns[0]] != b[columns[0]]).any(), policy


def test_no_image_reaches_the_map_of_another(root, tmp_path):
    """Half of the validation images altered: the maps of the other half stay as they are."""
    _, before = run("xbusnet", root)
    _, after = run("xbusnet", altered(root, tmp_path, images=5), name="five-negatives")
    one, two = record.probabilities(before), record.probabilities(after)
    same = [np.array_equal(one[case], two[case]) for case in sorted(one)]
    assert same == [False] * 5 + [True] * 5
