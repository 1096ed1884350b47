"""Another hospital: the second scanner's physics, prompts there, and drops with intervals checked by other means."""

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from tests.test_figures_study import overlaps
from tests.test_repeats import PLANTED, dataset
from xbuslib.analyses.cross_centre import datasets, figures, predictions, targets
from xbuslib.analyses.cross_centre import drop as cd
from xbuslib.cli import app
from xbuslib.config import resolve
from xbuslib.data import images
from xbuslib.data.cases import lesions
from xbuslib.data.catalogue import load
from xbuslib.data.phantom import acoustics as acoustics
from xbuslib.data.phantom import phantom
from xbuslib.data.phantom import scanners as scanners
from xbuslib.errors import StudyError
from xbuslib.prompts import words
from xbuslib.runs import record

# ---- the two scanners -----------------------------------------------------------------------------------------


def drawn(name, count=60):
    return [scanners.draw_frame(np.random.default_rng(seed), name) for seed in range(count)]


def test_scanner_a_is_the_phantom_as_published():
    """Digests taken of the simulator before it had a second scanner; case 22 is a sector."""
    for number, digest in ((2, "adfa131948e6eb73"), (22, "d285564482cf01f2")):
        for case in (phantom.simulate(number, 0, (96, 128)), phantom.simulate(number, 0, (96, 128), scanner="A")):
            assert hashlib.sha256(case.image.tobytes() + case.mask.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", ["A", "B"])
def test_speckle_is_as_large_as_the_wavelength_says(name):
    """Speckle intensity through a Gaussian pulse of deviation s has the autocorrelation exp(-d²/2s²)."""
    found, expected = [], []
    for seed, frame in enumerate(drawn(name, 4)):
        speckle = acoustics.echo(np.random.default_rng(seed), np.ones(frame.shape), np.zeros(frame.shape), frame) ** 2
        speckle = speckle - speckle.mean()
        neighbours = (speckle[1:] * speckle[:-1]).mean() / (speckle**2).mean()  # one pixel down the beam
        found.append(frame.pixel / np.sqrt(-2 * np.log(neighbours)))
        expected.append(1.2 * 0.154 / frame.frequency / 2.3548)  # 1.2 wavelengths wide at half maximum, in cm
    assert np.array(found) == pytest.approx(expected, rel=0.08)


def test_losses_with_depth_go_with_the_frequency():
    slopes = {}
    for name in "AB":
        frame = drawn(name, 1)[0]
        loss = acoustics.two_way_loss(np.full(frame.shape, 1.15), frame)
        slopes[name] = stats.linregress(frame.depths[:, 0], loss[:, 0]).slope
        # 1.15 dB/cm/MHz under a compensation for 0.65, there and back
        assert slopes[name] == pytest.approx(-2 * frame.frequency * 0.5, rel=1e-6)
    assert 0.4 < slopes["B"] / slopes["A"] < 0.95


def test_b_has_lower_frequency_larger_pixels_and_more_gain_than_any_setting_of_a():
    a, b = ({key: [getattr(frame, key) for frame in drawn(name)] for key in scanners.Frame._fields} for name in "AB")
    assert max(b["frequency"]) < min(a["frequency"]) and min(b["dynamic_range"]) > max(a["dynamic_range"])
    assert set(b["looks"]) == {1} and set(a["looks"]) == {2, 3, 4} and not any(b["sector"]) and any(a["sector"])
    assert np.median(b["pixel"]) > 1.4 * np.median(a["pixel"]) and np.mean(b["median_grey"]) > 85 > 70 > np.mean(
        a["median_grey"])
    for name in "AB":  # the breast shown is as deep and as broad
        frames = scanners.SCANNERS[name].linear
        assert all(3 < height * pixel < 5 and 3 < width * pixel < 5 for height, width, pixel in frames)


def test_a_case_has_the_same_words_and_about_the_same_size_on_both():
    lengths = {"A": [], "B": []}
    for number in range(1, 41):
        a, b = (phantom.simulate(number, 1, (90, 120), scanner=name) for name in "AB")
        assert a.row | {"Pixel_size": 0} == b.row | {"Pixel_size": 0}
        for name, case in (("A", a), ("B", b)):
            if case.mask is not None:
                sides = [np.ptp(np.flatnonzero(case.mask.any(axis))) + 1 for axis in (0, 1)]
                lengths[name].append(max(sides) * case.row["Pixel_size"])
    assert np.median(lengths["B"]) == pytest.approx(np.median(lengths["A"]), rel=0.25)


def test_the_command_makes_scanner_b_and_refuses_an_unknown_one(tmp_path):
    made = CliRunner().invoke(app, ["data", "phantom", "--root", str(tmp_path / "b"), "--n", "2", "--scanner", "B"])
    assert made.exit_code == 0 and "scanner B" in made.stdout
    widths = [Image.open(path).width for path in (tmp_path / "b").glob("*/case00?.png")]
    assert len(widths) == 2 and set(widths) <= {width for _, width, _ in scanners.SCANNERS["B"].linear}
    refused = CliRunner().invoke(app, ["data", "phantom", "--root", str(tmp_path / "c"), "--scanner", "C"])
    assert "no scanner 'C'" in str(refused.exception) and not (tmp_path / "c").exists()


# ---- targets and prompts --------------------------------------------------------------------------------------


@pytest.fixture
def study(smoke_study, outputs):
    """The smoke study with a folder of its own to write to."""
    shutil.copytree(smoke_study.folder / "prepared", outputs / smoke_study.name / "prepared")
    return replace(smoke_study, folder=outputs / smoke_study.name)


@pytest.fixture
def hospital(tmp_path):
    """Seven images of six patients in BUS-BRA's layout: BI-RADS and device, nothing else."""
    rng, root, rows = np.random.default_rng(0), tmp_path / "hospital", []
    for folder in ("Images", "Masks"):
        (root / folder).mkdir(parents=True)
    for i in range(7):
        name, mask = f"bus_{i:04d}-l", np.zeros((60, 80), np.uint8)
        mask[10:30, 10 + 5 * i:35 + 5 * i] = 255
        Image.fromarray(rng.integers(0, 255, (60, 80), np.uint8)).save(root / "Images" / f"{name}.png")
        Image.fromarray(mask).save(root / "Masks" / f"{name.replace('bus', 'mask')}.png")
        rows.append((name, max(i, 1), "cyst", "benign" if i % 2 else "malignant", 4, f"device {i % 2}", "left"))
    pd.DataFrame(rows, columns=["ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Side"]).to_csv(
        root / "bus_data.csv", index=False)
    return root


def test_the_studys_own_images_give_the_scores_of_its_runs(study):
    """The same code path as another hospital's images, on the validation images of one fold."""
    for system in ("unet", "bussam", "xbusnet"):
        folder = study.run_folder(system, 1)
        kept = pd.read_csv(folder / "per_image.csv", keep_default_na=False, na_values=[""])
        cases = study.cases[study.cases["fold"] == 1]
        rows, maps = predictions.predict_run(folder, cases, study.prepared)
        both = rows.merge(kept, on=["case_id", "policy", "attributes"], suffixes=("", "_kept"), validate="one_to_one")
        assert len(both) == len(rows) == len(cases) * rows.groupby(["policy", "attributes"]).ngroups
        assert set(rows["policy"]) <= {"first_pass", "none"}
        for metric in ("dice", "iou", "fpr", "fpr_released"):
            assert np.array_equal(both[metric], both[f"{metric}_kept"])
        of_run = record.probabilities(folder)
        for case, found in zip(cases["case_id"], maps, strict=True):
            assert np.abs(found - of_run[case]).max() < 6e-4  # the run keeps half precision


def test_what_a_hospital_does_not_give_is_in_no_prompt_and_no_mask_is_read(study, hospital, monkeypatch):
    target, = targets.open_targets(study, "busbra", str(hospital))
    assert target.label == "BUS-BRA (hospital)" and target.scale is None
    built, build = [], words.build
    monkeypatch.setattr(words, "build", lambda *args, **more: built.append(build(*args, **more)) or built[-1])
    rows, maps = predictions.predict_run(study.run_folder("xbusnet", 0), target.cases, target.rescaled)
    assert set(pd.concat(built)["local_text"]) == {"BI-RADS 4", "a lesion"}
    assert len(rows) == 7 * 4 and rows["default"].sum() == 7
    alone, same = predictions.predict_run(study.run_folder("xbusnet", 0), target.cases, target.rescaled, True)
    assert alone.equals(rows[rows["default"]].reset_index(drop=True)) and np.array_equal(same, maps)
    blank = replace(target.rescaled, masks=np.ones_like(target.prepared.masks),
                    boxes=0 * target.prepared.boxes, centroids=0 * target.prepared.centroids)
    assert np.array_equal(predictions.predict_run(study.run_folder("xbusnet", 0), target.cases, blank)[1], maps)

    table = datasets.attributes(study, [target]).set_index("attribute")
    assert list(table["given"]) == [0, 0, 7] and list(table["in prompts"]) == [False, False, True]
    trained = set(study.cases["birads"].dropna())
    assert "4" not in trained and table.loc["BI-RADS", "words not in training"] == "4"
    assert table.loc["BI-RADS", "in cases"] == 7 and table["in cases"].sum() == 7


def test_runs_and_their_ensemble_at_a_target(study, hospital):
    target, = targets.open_targets(study, "busbra", str(hospital))
    rows, ensembles = predictions.predict_target(study, target, ["unet"])
    assert len(rows) == 7 * 2 and set(rows["fold"]) == {0, 1} and rows["default"].all()
    folders = [study.run_folder("unet", fold) for fold in (0, 1)]
    maps = [predictions.predict_run(folder, target.cases, target.rescaled)[1] for folder in folders]
    mean = (maps[0] + maps[1]) / 2
    assert np.array_equal(ensembles["unet"] >= 0.5, mean >= 0.5)
    assert np.abs(ensembles["unet"] - mean).max() < 6e-4
    scored = predictions.score_ensembles(study, target, ensembles).set_index("case_id")["dice"]
    mask, found = target.prepared.masks[0], mean[0] >= 0.5
    assert scored[target.cases["case_id"][0]] == pytest.approx(2 * (mask & found).sum() / (mask.sum() + found.sum()))
    described = predictions.at_target(target, rows)
    assert set(described["device"]) == {"device 0", "device 1"} and described["target"].eq(target.label).all()


def test_lengths_are_in_the_pixels_of_the_study(study):
    """Pixels twice as large: a lesion of 60 such pixels is one of 120 of the study's; its quadrant is the same."""
    own = study.prepared
    cases = lesions(study.cases).iloc[:3]
    plain = targets.Target("x", "phantom", cases, own, None)
    twice = targets.Target("x", "phantom", cases, own, 2.0)
    region = np.zeros((64, 64), bool)
    region[10:20, 40:60] = True
    frames = [tuple(int(side) for side in prepared.original_sizes[0]) for prepared in (plain.rescaled, twice.rescaled)]
    small, large = (words.measure(region, frame) for frame in frames)
    assert large.box == pytest.approx([2 * side for side in small.box])
    assert words.quadrant(small.centre, frames[0]) == words.quadrant(large.centre, frames[1]) == "upper right"
    edges = (1.5 * max(small.box), 3 * max(small.box))
    assert [words.size_word(found.box, edges) for found in (small, large)] == ["small", "medium"]
    assert twice.rescaled.boxes == pytest.approx(2 * own.boxes) and plain.rescaled.boxes == pytest.approx(own.boxes)


def test_the_default_targets_are_both_scanners_with_other_patients(study):
    both = targets.open_targets(study)
    assert [target.label for target in both] == ["simulated phantom, scanner A", "simulated phantom, scanner B"]
    pixel = {target.label: target.cases["pixel_mm"].median() for target in both}
    assert both[1].scale == pytest.approx(pixel[both[1].label] / study.cases["pixel_mm"].median())
    classes = datasets.size_classes(study, both)
    assert classes.groupby("dataset")["used"].sum().eq(1).all()
    assert np.allclose(classes[["small", "medium", "large"]].sum(axis=1), 1)
    edges = np.mean([record.read(Path(folder))["size_edges_px"] for folder in study.runs["folder"]], axis=0)
    sides = both[1].prepared.long_sides * both[1].scale
    assert classes.iloc[-1]["small"] == pytest.approx((sides <= edges[0]).mean())
    sides = datasets.side_by_side(study, both).set_index("dataset")
    assert sides.loc[both[1].label, "mean grey"] > sides["mean grey"].iloc[0] + 15  # the gain


def test_impossible_targets_are_refused(study, hospital, phantom_root):
    with pytest.raises(StudyError, match="no target 'ultrasound'"):
        targets.open_targets(study, "ultrasound")
    with pytest.raises(StudyError, match="one folder for each"):
        targets.open_targets(study, "busbra,busi", str(hospital))
    with pytest.raises(StudyError, match="share a name"):
        targets.open_targets(study, "busbra,busbra", f"{hospital},{hospital}")
    with pytest.raises(StudyError, match="are in study smoke-study itself"):
        targets.open_targets(study, "phantom", str(phantom_root))
    with pytest.raises(StudyError, match="unknown system unett"):
        predictions.choose_systems(study, "unett")
    with pytest.raises(StudyError, match="no run of ukan"):
        predictions.choose_systems(study, "ukan")
    assert predictions.choose_systems(study, "xbusnet, unet,ukan") == ["unet", "xbusnet"]


COPIES = {  # of the study's images, as PLANTED makes them: what the refusal says of each
    "renamed": "equal pixels", "recompressed": r"\d+ of 256 bits of their hashes differ",
    "5 % smaller": r"\d+ of 256 bits of their hashes differ", "brightened": r"\d+ of 256 bits of their hashes differ",
    "mirrored": r"\d+ of 256 bits of their hashes differ, one of them mirrored"}


def test_a_target_with_copies_of_the_studys_images_is_refused_and_each_is_named(phantom_root, tmp_path, outputs):
    """Copied files of the study among other patients' images of the same simulator; no run is needed for this."""
    table = load("phantom", phantom_root)
    own = lesions(table)
    study = SimpleNamespace(name="s", facts={"config": resolve("smoke").model_dump(), "dataset": "phantom"}, cases=own,
                            prepared=images.prepare(table, 64, outputs / "own"), folder=outputs / "s")
    others = [("malignant", number, Image.fromarray(phantom.simulate(number, 3, (300, 400)).image))
              for number in range(1, 5)]
    copies = [("benign", number, PLANTED[what][0](Image.open(own["image"][number]).convert("L")))
              for number, what in enumerate(COPIES)]
    with pytest.raises(StudyError, match="5 of 9 images of BUSI .* are in study s itself") as refused:
        targets.open_targets(study, "busi", str(dataset(tmp_path / "both", others + copies)))
    named = [line for line in str(refused.value).splitlines() if line.startswith("  ")]
    for number, (line, how) in enumerate(zip(sorted(named), COPIES.values(), strict=True)):
        assert re.fullmatch(rf"  benign \({number}\) and {own['case_id'][number]} of the study: {how}", line), line
    target, = targets.open_targets(study, "busi", str(dataset(tmp_path / "others", others)))
    assert list(target.cases["case_id"]) == [f"malignant ({number})" for number in range(1, 5)]


def test_systems_without_a_choice(study):
    """Three of a study of six; all of a small one, or of one that has none of the three."""
    assert len(study.systems) == 6 and predictions.choose_systems(study, "") == ["unet", "uresnet", "xbusnet"]
    for own in (["unet", "bussam"], ["bussam", "xbusnet-no-gfe", "xbusnet-no-sfa"]):
        part = replace(study, runs=study.runs[study.runs["system"].isin(own)])
        assert predictions.choose_systems(part, "") == own
    part = replace(study, runs=study.runs.assign(system=study.runs["system"].map("own-{}".format)))
    assert len(part.systems) == 6 and predictions.choose_systems(part, "") == part.systems


def test_targets_that_are_available(study, tmp_path, monkeypatch):
    blu = replace(study, facts=study.facts | {"dataset": "blu"})
    assert targets.available(study) == ["phantom-A", "phantom-B"] and targets.available(blu) == ["phantom-B"]
    for name in ("blu", "busi"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("XBUS_DATA", str(tmp_path))
    assert targets.available(blu) == ["busi"]
    (tmp_path / "own").mkdir()
    own = replace(study, facts=study.facts | {"dataset": "own"})
    assert targets.available(blu) == ["busi", "own"] and targets.available(own) == ["blu", "busi"]
    assert "The dataset is own data, not the paper's BLU." in own.caveats


def test_ensembles_are_cut_at_a_threshold_that_half_precision_rounds():
    """0.4 is 0.3999 in half precision, and so is what lies just below it."""
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 8:16, 8:16] = True
    target = SimpleNamespace(prepared=SimpleNamespace(masks=mask, rows=lambda ids: [0]),
                             cases=pd.DataFrame({"case_id": ["a"]}))
    maps = record.halved(np.where(mask, np.float32(0.9), np.float32(0.39995)), 0.4)
    found = predictions.score_ensembles(SimpleNamespace(facts={"config": {"threshold": 0.4}}), target, {"unet": maps})
    assert found[["dice", "fpr"]].to_numpy().tolist() == [[pytest.approx(1), 0]]


# ---- drops ----------------------------------------------------------------------------------------------------


def table(scores, fold=0, patients=None, **more):
    """Rows of per-image scores of one model; one patient each unless said otherwise."""
    names = [f"{i}" for i in range(len(scores))]
    return pd.DataFrame({"case_id": names, "patient_id": patients or names, "fold": fold, "dice": scores} | more)


def test_a_drop_by_hand():
    source = pd.concat([table([0.9, 0.7, 0.8], fold=0), table([0.8] * 5, fold=1).assign(case_id=list("abcde"),
                                                                                       patient_id=list("abcde"))])
    target = pd.concat([table([0.5, 0.1, 0.3, 0.3, 0.3], fold=0), table([0.7, 0.3, 0.5, 0.5, 0.5], fold=1)])
    found = cd.difference(source, target)
    assert (found["in_domain"], found["at_target"]) == (pytest.approx(0.8), pytest.approx(0.4))
    assert found["difference"] == pytest.approx(-0.4) and found["low"] < -0.4 < found["high"]
    assert np.isnan([found["low_folds"], found["high_folds"]]).all()  # two folds say nothing about folds
    few = cd.difference(source, target[target["case_id"].isin(list("0123"))])
    assert np.isnan(few["low"]) and few["at_target"] == pytest.approx((0.6 + 0.2 + 0.4 + 0.4) / 4)
    certain = cd.difference(table([0.8] * 6), table([0.5] * 6))
    assert (certain["low"], certain["high"]) == (pytest.approx(-0.3), pytest.approx(-0.3))


def test_the_interval_is_that_of_scipys_bootstrap():
    rng = np.random.default_rng(1)
    before, after = rng.beta(5, 2, 60), rng.beta(3, 3, 40)
    found = cd.difference(table(before), table(after))
    theirs = stats.bootstrap((before, after), lambda a, b, axis: b.mean(axis) - a.mean(axis), n_resamples=5000,
                             method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert found["low"] == pytest.approx(theirs.low, abs=0.006)
    assert found["high"] == pytest.approx(theirs.high, abs=0.006)


def test_images_of_one_patient_count_once():
    rng = np.random.default_rng(3)
    source, one_each = table(rng.uniform(size=50)), rng.uniform(size=20)
    once = cd.difference(source, table(one_each))
    often = cd.difference(source, table(np.repeat(one_each, 4), patients=list(np.repeat(np.arange(20), 4).astype(str))))
    assert often["low"] == pytest.approx(once["low"], abs=0.01)
    assert often["high"] == pytest.approx(once["high"], abs=0.01)


def test_folds_are_drawn_together_on_both_sides():
    """Models that differ by as much at home as elsewhere: the drop does not depend on which of them are drawn."""
    levels = [0.2, 0.3, 0.5, 0.7, 0.8]
    source = pd.concat([table([level] * 80, fold=k).assign(case_id=lambda t, k=k: t["case_id"] + f"s{k}",
                                                            patient_id=lambda t, k=k: t["case_id"] + f"s{k}")
                        for k, level in enumerate(levels)])
    target = pd.concat([table([level - 0.1] * 30, fold=k) for k, level in enumerate(levels)])
    tied = cd.difference(source, target)
    assert (tied["low_folds"], tied["high_folds"]) == (pytest.approx(-0.1, abs=0.03), pytest.approx(-0.1, abs=0.03))
    steady = cd.difference(source.assign(dice=0.5), target)  # only the target's scores depend on the model
    theirs = stats.bootstrap((np.array(levels) - 0.6,), np.mean, n_resamples=5000, method="percentile",
                             rng=np.random.default_rng(2)).confidence_interval
    assert steady["low"] == pytest.approx(steady["high"])  # every image has the same score
    assert steady["low_folds"] == pytest.approx(theirs.low, abs=0.02)
    assert steady["high_folds"] == pytest.approx(theirs.high, abs=0.02)


def test_drops_join_a_system_and_a_scoring_with_its_own_kind():
    key = {"system": "xbusnet", "paper_name": "XBusNet", "policy": "first_pass"}
    source = pd.concat([table([0.8] * 5, attributes="metadata", default=True, **key),
                        table([0.75] * 4 + [0.0], attributes="none", default=False, **key)])
    target = pd.concat([table([0.5] * 4 + [0.0], attributes="metadata", default=True, target="X", **key),
                        table([0.5] * 5, attributes="none", default=False, target="X", **key)])
    found = cd.drops(source, target).set_index("attributes")
    assert found.loc["metadata", "difference"] == pytest.approx(-0.4)
    assert found.loc["none", "difference"] == pytest.approx(-0.1)
    assert found["missed_target"].to_dict() == pytest.approx({"metadata": 0.2, "none": 0})
    assert found["missed_in_domain"].to_dict() == pytest.approx({"metadata": 0, "none": 0.2})
    assert list(found["default"]) == [True, False] and list(found["n_target"]) == [5, 5]


def test_groups_are_compared_with_their_like_and_devices_with_all():
    key = {"system": "unet", "paper_name": "U-Net", "policy": "none", "attributes": "none", "default": True}
    classes = ["benign"] * 5 + ["malignant"] * 5
    source = table([0.9] * 5 + [0.5] * 5, pathology=classes, birads=["2"] * 5 + ["4a", "4b", "4c", "4a", "5"], **key)
    target = table([0.8] * 5 + [0.3] * 5, pathology=classes, birads=["2"] * 5 + ["4"] * 5, target="X",
                   device=["old", "new"] * 5, **key)
    found = cd.by_group(source, target).set_index(["by", "group"])
    assert found.loc[("class", "benign"), "difference"] == pytest.approx(-0.1)
    assert found.loc[("class", "malignant"), "difference"] == pytest.approx(-0.2)
    assert found.loc[("BI-RADS", "4"), "in_domain"] == pytest.approx(0.5)
    assert found.loc[("BI-RADS", "4"), "n_in_domain"] == 4
    old = found.loc[("device", "old")]
    assert old["compared_with"] == "all of the study" and old["n_target"] == 5
    assert old["at_target"] == pytest.approx((3 * 0.8 + 2 * 0.3) / 5) and old["in_domain"] == pytest.approx(0.7)
    assert "device" not in set(cd.by_group(source, target.drop(columns="device"))["by"])


def both_scanners():
    key = {"system": "unet", "paper_name": "U-Net", "policy": "none", "attributes": "none", "default": True, "seed": 0}
    base = np.linspace(0.3, 0.9, 9)
    return pd.concat([table(base + shift + step, fold=fold, target=f"simulated phantom, scanner {name}", **key)
                      for name, shift in (("A", 0.05), ("B", -0.15)) for fold, step in ((0, -0.02), (1, 0.02))])


def test_the_scanner_alone_is_a_paired_difference():
    found = cd.scanner_alone(both_scanners()).iloc[0]
    assert found["n"] == 9 and found["difference"] == pytest.approx(-0.2)
    assert found["low"] == pytest.approx(-0.2) and found["high"] == pytest.approx(-0.2)  # the same on every case
    assert cd.scanner_alone(both_scanners().query("target.str.endswith('B')")).empty


def test_ensemble_gain_and_the_cases_at_the_quartiles():
    rows = both_scanners().query("target.str.endswith('B')")
    ensembles = rows[rows["fold"] == 0].assign(dice=lambda t: t["dice"] + 0.05)  # 0.03 over the mean of the folds
    gain = cd.ensemble_gain(rows, ensembles).iloc[0]
    assert gain["gain"] == pytest.approx(0.03) and gain["folds_mean"] == pytest.approx(0.45)
    lost = ensembles.assign(dice=ensembles["dice"].where(ensembles["case_id"] != "8", 0.0))  # one of nine
    assert gain["missed_ensemble"] == 0 and cd.ensemble_gain(rows, lost)["missed_ensemble"][0] == pytest.approx(1 / 9)
    assert list(cd.quartile_cases(rows)["case_id"]) == ["2", "4", "6"]


# ---- figures and real files -----------------------------------------------------------------------------------


def test_figures_draw_the_table_and_no_words_overlap():
    label = "simulated phantom, profile quick, 64 px, 150 iterations, CLIP random, ResNet-18 random, 5 folds, seed 0"
    there = pd.concat([both_scanners().assign(system=name, paper_name=paper, pathology=["benign", "malignant", "benign"]
                                              * 12, birads="4a") for name, paper in
                       (("unet", "U-Net"), ("xbusnet", "XBusNet"))])
    source = there[there["target"].str.endswith("A")].drop(columns="target")
    drops, gains = cd.drops(source, there), cd.ensemble_gain(there, there[there["fold"] == 0])
    figure = figures.drop(drops, gains, label)
    dots = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_marker() == "o"]
    assert dots == pytest.approx(list(drops.loc[drops["target"].str.endswith("A"), "difference"]))
    assert overlaps(figure) == []
    assert overlaps(figures.groups(cd.by_group(source, there), label)) == []


def test_real_samples_as_targets(study, samples):
    busi, busbra = targets.open_targets(study, "busi,busbra", f"{samples['busi']},{samples['busbra']}")
    assert busi.scale is busbra.scale is None
    published = pd.read_csv(samples["busbra"] / "bus_data.csv").set_index("ID")
    for case, box in zip(busbra.prepared.case_ids, busbra.prepared.boxes, strict=True):  # [x, y, width, height]
        sides = published.loc[case, "BBOX"].strip("[]").split(",")[2:]
        assert list(box) == pytest.approx([int(side) for side in sides], abs=1)
    assert busbra.slug == "BUS_BRA_BUS_BRA_sample"
    table = datasets.attributes(study, [busi, busbra]).set_index(["target", "attribute"])
    assert table.loc[(busbra.label, "BI-RADS"), "in cases"] == (published["BIRADS"] == 4).sum()
    assert table.index[table["in prompts"]].tolist() == [(busbra.label, "BI-RADS")]
    rows, _ = predictions.predict_target(study, busi, ["unet"])
    assert len(rows) == 2 * 35 and rows["dice"].between(0, 1).all()


@pytest.mark.parametrize("name", ["busi", "busbra"])
def test_real_samples_are_trained_on_too(samples, outputs, name):
    from xbuslib.config import resolve
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source

    source = open_source(name, samples[name], None, resolve("smoke", ["iterations=1"]), f"{name}-smoke")
    train, val = source.split(0)
    assert not set(train["patient_id"]) & set(val["patient_id"]) and len(train) + len(val) == len(source.cases)
    path = run_fold("unet", 0, resolve("smoke", ["iterations=1"]), source, study=f"{name}-smoke")
    assert record.read(path)["dataset"] == name and len(pd.read_csv(path / "per_image.csv")) == len(val)


