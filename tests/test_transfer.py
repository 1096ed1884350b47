"""Steps of training side by side (notebook 15): what is compared, by hand-computed numbers, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.conftest import copied
from xbuslib.analyses.transfer import elsewhere, figures, first_pass, gains, rehearsal, sentences
from xbuslib.analyses.transfer.steps import described, facts, open_steps, units
from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.evaluation.metrics import PAPER, RELEASED
from xbuslib.runs import record
from xbuslib.runs.export import export
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source
from xbuslib.runs.study import open_study
from xbuslib.runs.trained import Trained

TINY = resolve("smoke", ["iterations=2", "phantom_cases=16", "folds=2"])
CASES = pd.DataFrame({"case_id": ["a", "b", "c", "d"], "fold": [0, 0, 1, 1], "long_side_px": [60, 110, 111, 400]})
DICE = {"first": [0.2, 0.0, 0.6, 0.8], "last": [0.5, 0.3, 0.0, 0.9]}  # of a, b, c, d
SAME = {"dataset": "phantom", "dataset_fingerprint": "f", "folds_checksum": "c", "protocol": 2}


def exported(folder: Path, dice: list[float], system: str = "unet", nothing: float = 0.0, **run) -> str:
    """An exported study of four images on two folds; `nothing`: how much lower Dice is without size and location."""
    told = {"recipe": "uniform", "iterations": 5, "train_images": 2, "images_before": 0, "seen_before": "none",
            "views": 1, "weights": "", "commit": "abc"}
    runs = [{"system": system, "fold": fold, "seed": 0, **SAME, **told, **run} for fold in (0, 1)]
    scores = dict.fromkeys(PAPER + RELEASED, 0.5)
    rows = [{"system": system, "policy": policy, "attributes": "none", "fold": case.fold, "seed": 0,
             "case_id": case.case_id, "default": policy == "first_pass"} | scores | {"dice": value - lower}
            for policy, lower in (("first_pass", 0.0), ("none", nothing))
            for case, value in zip(CASES.itertuples(), dice, strict=True)]
    folder.mkdir()
    pd.DataFrame(runs).to_csv(folder / "runs.csv", index=False)
    pd.DataFrame(rows).to_csv(folder / "per_image.csv", index=False)
    CASES.to_csv(folder / "cases.csv", index=False)
    (folder / "config.json").write_text(json.dumps({"profile": "quick", "image_size": 64, "threshold": 0.5}))
    return str(folder)


def with_column(name: str, file: str, **columns) -> None:
    """Change columns of a table of an export."""
    table = pd.read_csv(f"{name}/{file}.csv", keep_default_na=False)
    table.assign(**columns).to_csv(f"{name}/{file}.csv", index=False)


def uneven(name: str) -> str:
    """An export whose folds have three images (a, b, c) and one (d)."""
    with_column(name, "per_image", fold=lambda table: (table["case_id"] == "d").astype(int))
    return name


@pytest.fixture
def names(tmp_path, outputs):
    last = {"recipe": "strong", "iterations": 3, "images_before": 30, "seen_before": "BUS-BRA, 30 images"}
    return [exported(tmp_path / "first", DICE["first"], nothing=0.1),
            exported(tmp_path / "last", DICE["last"], nothing=-0.05, **last)]


def test_means_and_paired_differences_by_hand(names):
    steps = open_steps(names)
    assert [step.label for step in steps] == ["uniform", "strong, from BUS-BRA"]
    table = gains.table(steps, gains.distances(steps, ""))
    assert table["dice"].tolist() == pytest.approx([(0.1 + 0.7) / 2, (0.4 + 0.45) / 2])
    assert table["dice_sd"].tolist() == pytest.approx([0.6 / 2**0.5, 0.05 / 2**0.5])
    assert table["missed"].tolist() == [1, 1] and table["dice_median"].tolist() == pytest.approx([0.4, 0.4])
    assert table["hd95"].isna().all() and table["seen_before"].tolist() == ["none", "BUS-BRA, 30 images"]
    change, = gains.changes(steps).itertuples()
    assert change.mean_difference == pytest.approx((0.3 + 0.3 - 0.6 + 0.1) / 4) and change.n == 4
    assert (change.step, change.compared_with) == ("strong, from BUS-BRA", "uniform") and change.low < 0 < change.high
    told = sentences.answer(table, gains.changes(steps))
    assert "**UNet reaches a mean lesion Dice of 0.425** (strong, from BUS-BRA)" in told and "0.425 (+0.025" in told
    assert "misses 1 of 4 lesions at the first step and 1 at the last" in sentences.misses(table)
    assert "that it touches at all is then 0.567" in sentences.misses(table)  # (0.5 + 0.3 + 0.9) / 3
    assert sentences.lengths(steps).endswith("uniform 5 iterations; strong, from BUS-BRA 3 iterations.")
    assert sentences.lengths(steps[:1]) == ""
    assert "maps of the last step are not here" in sentences.traces(gains.missed_lesions(steps[1]), steps[1])


@pytest.mark.parametrize("column", ["patient", "patient_id"])  # of an export with --no-data, and of an ordinary one
def test_images_of_one_patient_count_once(names, column):
    """Differences .3 .3 and -.6 .1: two patients, who may stand for both, once in four draws each."""
    steps = open_steps(names)
    change, = gains.changes(steps).itertuples()
    assert units(steps) == "images" and change.low < -0.25 and change.high == pytest.approx(0.3)
    with_column(names[1], "cases", **{column: [1, 1, 2, 2]})
    steps = open_steps(names)
    change, = gains.changes(steps).itertuples()
    assert (change.n, change.mean_difference) == (4, pytest.approx(0.025)) and units(steps) == "patients"
    assert (change.low, change.high) == pytest.approx((-0.25, 0.3))
    assert change.rank_biserial == pytest.approx((2 - 1) / 3)  # of the means .3 and -.25


def test_three_steps_are_compared_in_order_and_the_last_with_the_first(names, tmp_path):
    middle = exported(tmp_path / "middle", [0.4, 0.2, 0.8, 1.0], recipe="strong")
    changed = gains.changes(open_steps([names[0], middle, names[1]]))
    pairs = list(zip(changed["step"], changed["compared_with"], strict=True))
    assert pairs == [("strong", "uniform"), ("strong, from BUS-BRA", "strong"), ("strong, from BUS-BRA", "uniform")]
    assert changed["mean_difference"].tolist() == pytest.approx([0.2, -0.175, 0.025])
    assert (changed["p_holm"] >= changed["p"]).all() and changed["p_holm"].max() > changed["p"].min()


def test_what_each_change_brings_alone(names, tmp_path):
    """Steps that differ in both say nothing of either; a step that was not trained on the dataset does not count."""
    own = exported(tmp_path / "own", [0.4, 0.2, 0.8, 1.0], recipe="strong")
    alone = exported(tmp_path / "alone", [0.1] * 4, recipe="strong", iterations=0, train_images=0, images_before=30,
                     seen_before="B, 30 images")
    found = gains.contrasts(open_steps([names[0], own, names[1], alone]))
    assert found[["change", "step", "compared_with"]].to_numpy().tolist() == [
        ["images of other hospitals", "strong, from BUS-BRA", "strong"],
        ["the recipe strong instead of uniform", "strong", "uniform"]]
    assert found["mean_difference"].tolist() == pytest.approx([-0.175, 0.2])
    told = sentences.brought(found)
    assert told.startswith("With images of other hospitals, the mean lesion Dice changes by **−0.175 for UNet** (95 % ")
    assert ": *strong, from BUS-BRA* (3 iterations) against *strong* (5)." in told
    assert told.endswith(": *strong* (5 iterations) against *uniform* (5).")
    assert sentences.brought(gains.contrasts(open_steps(names))).startswith("No two of these steps differ")


def test_sizes_are_those_of_table_2(names):
    sized = gains.by_size(open_steps(names))
    first = sized[sized["step"] == "uniform"].set_index("bin")
    assert first["n"].to_dict() == {"≤ 110": 2, "111–250": 1, "> 250": 1}  # 110 belongs to the lower bin
    assert first["dice"].to_dict() == pytest.approx({"≤ 110": 0.1, "111–250": 0.6, "> 250": 0.8})
    assert first["missed"].to_dict() == {"≤ 110": 1, "111–250": 0, "> 250": 0}


def test_an_image_of_unknown_size_is_in_no_bin(names):
    for name in names:
        CASES.query("case_id != 'b'").to_csv(f"{name}/cases.csv", index=False)
    with pytest.raises(StudyError, match="the lesion's size of 1 image.s. of first, such as b; export the study again"):
        gains.by_size(open_steps(names))


def test_several_seeds_count_as_parts_of_a_lesion(names):
    """Lesion a is found by one of two seeds: half a miss, and its Dice where it is found is that seed's."""
    rows, runs = (pd.read_csv(f"{names[0]}/{file}.csv", keep_default_na=False) for file in ("per_image", "runs"))
    second = rows.assign(seed=1, dice=np.where(rows["case_id"] == "a", 0.0, rows["dice"]))
    pd.concat([rows, second]).to_csv(f"{names[0]}/per_image.csv", index=False)
    pd.concat([runs, runs.assign(seed=1)]).assign(recipe="strong").to_csv(f"{names[0]}/runs.csv", index=False)
    steps = open_steps(names)
    table = gains.table(steps, gains.distances(steps, ""))
    assert table["missed"].tolist() == [1.5, 1] and table["dice_found"][0] == pytest.approx((0.2 + 0.6 + 0.8) / 3)
    assert gains.curve(steps, "strong").set_index("images_before").loc[0, "missed"] == 1.5


def test_images_on_both_sides_of_a_fold_stand_in_the_caption(names):
    assert "both sides" not in facts(open_steps(names))
    for name, divided in zip(names, (1, 0), strict=True):  # the second as of an earlier version
        runs = pd.read_csv(f"{name}/runs.csv")
        runs = runs.assign(val_cases=2, val_divided=[divided, 0]) if divided else runs
        runs.to_csv(f"{name}/runs.csv", index=False)
    assert facts(open_steps(names)).endswith("on both sides of a fold, by patient or picture: 1 of 4 validation images")


def test_what_the_prompt_adds_at_each_step(names):
    found = gains.by_prompt(open_steps(names)).set_index(["step", "prompt"])
    assert found["mean_difference"].dropna().to_dict() == pytest.approx(
        {("uniform", "first pass"): 0.1, ("strong, from BUS-BRA", "first pass"): -0.05})
    assert not found["uses_reference"].any()
    told = sentences.prompt(gains.by_prompt(open_steps(names)))
    assert told.startswith("What the prompt adds to an empty one, in Dice: UNet (first pass): uniform +0.100")
    for name in names:  # a system that reads attributes alone
        rows = pd.read_csv(f"{name}/per_image.csv", keep_default_na=False)
        rows.loc[rows["policy"] == "first_pass", ["policy", "attributes"]] = "none", "metadata"
        rows.to_csv(f"{name}/per_image.csv", index=False)
    assert "UNet (attributes): uniform +0.100" in sentences.prompt(gains.by_prompt(open_steps(names)))
    for name in names:  # and one that reads nothing
        rows = pd.read_csv(f"{name}/per_image.csv", keep_default_na=False).query("attributes == 'none'")
        rows.assign(default=True).to_csv(f"{name}/per_image.csv", index=False)
    assert sentences.prompt(gains.by_prompt(open_steps(names))) == "No system of these steps reads a prompt."


def test_prompts_from_the_reference_mask_are_marked(names):
    rows = pd.read_csv(f"{names[0]}/per_image.csv", keep_default_na=False)
    best = rows[rows["default"]].assign(policy="reference", attributes="metadata", default=False, dice=1.0)
    pd.concat([rows, best]).to_csv(f"{names[0]}/per_image.csv", index=False)
    found = gains.by_prompt(open_steps(names))
    assert found.loc[found["uses_reference"], ["step", "prompt", "dice"]].to_numpy().tolist() == [
        ["uniform", "reference mask, attributes", 1.0]]


def test_means_are_taken_over_folds_of_unequal_size(names, tmp_path):
    """a, b, c and d: .3 .6 .9 and .4 have the fold means .6 and .4, and .55 over images."""
    own = exported(tmp_path / "own", [0.3, 0.6, 0.9, 0.4], recipe="strong")
    steps = open_steps([uneven(own), uneven(names[1])])
    means = pytest.approx([(0.6 + 0.4) / 2, (0.8 / 3 + 0.9) / 2])
    assert gains.curve(steps, "strong")["dice"].tolist() == means
    assert gains.table(steps, gains.distances(steps, ""))["dice"].tolist() == means


def test_the_figure_of_the_steps_draws_folds_means_and_differences(names):
    steps = open_steps([uneven(name) for name in names])
    changed = gains.changes(steps).assign(low=-0.1, high=0.2)
    left, right = figures.steps_figure(steps, changed, "").axes
    drawn = [(value, line.get_ydata()[0]) for line in left.lines for value in line.get_xdata()]
    first, last = (0.8 / 3, 0.8), (0.8 / 3, 0.9)
    assert drawn == [pytest.approx(point) for point in [
        (first[0], 0), (first[1], 0), (sum(first) / 2, 0), (last[0], 1), (last[1], 1), (sum(last) / 2, 1)]]
    interval, mark = right.lines[:2]  # the third is the line at zero
    assert list(interval.get_xdata()) == [-0.1, 0.2] and list(interval.get_ydata()) == [1, 1]
    assert (list(mark.get_xdata()), list(mark.get_ydata())) == ([pytest.approx((0.3 + 0.3 - 0.6 + 0.1) / 4)], [1])


def test_the_figure_of_sizes_draws_means_and_numbers_of_missed_lesions(names):
    axes = figures.size_figure(gains.by_size(open_steps(names)), "").axes
    assert [axis.get_title().split(" px")[0] for axis in axes] == ["≤ 110", "111–250", "> 250"]
    assert [[line.get_xdata()[0] for line in axis.lines] for axis in axes] == [
        [pytest.approx(0.1), pytest.approx(0.4)], [0.6, 0.0], [0.8, 0.9]]
    assert [[line.get_ydata()[0] for line in axis.lines] for axis in axes] == [[0, 1]] * 3
    assert [[text.get_text() for text in axis.texts] for axis in axes] == [
        ["1 missed", "0 missed"], ["0 missed", "1 missed"], ["0 missed", "0 missed"]]


def test_the_learning_curve_has_one_recipe(names, tmp_path):
    alone = {"recipe": "strong", "iterations": 0, "train_images": 0, "images_before": 30, "seen_before": "B, 30 images"}
    middle = [exported(tmp_path / "none", [0.1] * 4, **alone), exported(tmp_path / "own", [0.3] * 4, recipe="strong")]
    steps = open_steps([names[0], *middle, names[1]])
    assert steps[1].label == "B alone"
    points = gains.curve(steps, steps[-1].recipe)
    assert list(zip(points["train_images"], points["images_before"], points["dice"].round(3), strict=True)) == [
        (0, 30, 0.1), (2, 0, 0.3), (2, 30, 0.425)]  # the uniform step is no point of a curve of `strong`
    assert described(steps)["training images per fold"].tolist() == ["2", "0", "2", "2"]
    assert gains.curve(open_steps(names), "strong").empty  # one point is no curve
    short = exported(tmp_path / "short", [0.35] * 4, recipe="strong", iterations=1)  # trained for the curve
    points = gains.curve(open_steps([names[0], *middle, names[1], short]), "strong")
    assert points.loc[points["images_before"] == 0, ["dice", "iterations"]].to_numpy().tolist() == [[0.35, 1]]


def test_all_images_of_folds_of_several_sizes_are_one_line(names, tmp_path):
    """Folds hold 201 or 202 training images: systems on other folds have another mean, and the same line."""
    for name in names:
        pd.read_csv(f"{name}/runs.csv").assign(recipe="strong").to_csv(f"{name}/runs.csv", index=False)
    half = exported(tmp_path / "half", [0.35] * 4, recipe="strong", train_images=1)
    (tmp_path / "half" / "config.json").write_text(json.dumps(
        {"profile": "quick", "image_size": 64, "threshold": 0.5, "train_images": 1}))
    points = gains.curve(open_steps([*names, half]), "strong")
    assert points["own_images"].tolist() == ["part", "all", "all"]
    other = points.query("own_images == 'all'").assign(system="uresnet", paper_name="U-ResNet", train_images=3)
    legend, = figures.learning_curve(pd.concat([points, other]), "").legends
    assert [text.get_text() for text in legend.get_texts()] == ["1", "all"]


def test_the_learning_curve_is_dotted_where_the_length_differs():
    points = pd.DataFrame({"paper_name": "U-ResNet", "system": "uresnet", "images_before": [0, 30, 60],
                           "train_images": 50, "own_images": "all", "iterations": [9, 4, 4], "folds": 1,
                           "dice": [0.7, 0.6, 0.8]})
    figure = figures.learning_curve(points, "")
    axis, legend = *figure.axes, *figure.legends
    assert "dotted: trainings differ in length" in legend.get_title().get_text()
    drawn = {tuple(line.get_xdata()): (line.get_linestyle(), list(line.get_ydata())) for line in axis.lines}
    assert drawn == {(0, 30, 60): ("None", [0.7, 0.6, 0.8]), (0, 30): (":", [0.7, 0.6]), (30, 60): ("-", [0.6, 0.8])}


def test_adopted_predictions_are_a_system_without_a_recipe(names, tmp_path):
    """The curve is that of the trained systems; nnunet's rows come first, and are compared like any other."""
    for name in names:
        rows, runs = (pd.read_csv(f"{name}/{file}.csv") for file in ("per_image", "runs"))
        pd.concat([rows.assign(system="nnunet"), rows]).to_csv(f"{name}/per_image.csv", index=False)
        unknown = dict.fromkeys(["iterations", "train_images", "images_before", "seen_before"])
        pd.concat([runs.assign(system="nnunet", recipe="adopted", **unknown), runs]).to_csv(f"{name}/runs.csv",
                                                                                            index=False)
    own = exported(tmp_path / "own", [0.3] * 4, recipe="strong")
    steps = open_steps(names, "unet,nnunet")
    assert steps[-1].recipe == "strong" and set(gains.changes(steps)["system"]) == {"unet", "nnunet"}
    points = gains.curve([*steps, *open_steps([own])], steps[-1].recipe)
    assert set(points["system"]) == {"unet"} and points["images_before"].tolist() == [0, 30]
    alone = open_steps(names, "nnunet")
    assert alone[-1].recipe == "adopted" and gains.curve(alone, alone[-1].recipe).empty


def test_only_folds_that_all_steps_share(names):
    rows = pd.read_csv(f"{names[1]}/per_image.csv")
    rows[rows["fold"] == 1].to_csv(f"{names[1]}/per_image.csv", index=False)
    steps = open_steps(names)
    assert gains.table(steps, gains.distances(steps, ""))["dice"].tolist() == pytest.approx([0.7, 0.45])
    assert facts(steps) == "simulated phantom, profile quick, 64 px, no pretrained encoder, 1 fold, seed 0"
    assert "encoders" not in described(steps)


def test_encoders_that_differ_are_said_of_each_step(names):
    for name, weights in zip(names, ("ResNet-50 random", "ResNet-50 pretrained"), strict=True):
        pd.read_csv(f"{name}/runs.csv").assign(weights=weights).to_csv(f"{name}/runs.csv", index=False)
    steps = open_steps(names)
    assert "uniform: ResNet-50 random; strong, from BUS-BRA: ResNet-50 pretrained, 2 folds" in facts(steps)
    assert described(steps)["encoders"].tolist() == ["ResNet-50 random", "ResNet-50 pretrained"]


def test_steps_of_one_name_keep_apart(names, tmp_path):
    (tmp_path / "other").mkdir()
    again = exported(tmp_path / "other" / "first", DICE["last"])
    steps = open_steps([names[0], again])
    assert [step.label for step in steps] == [f"uniform ({names[0]})", f"uniform ({again})"]
    assert gains.changes(steps)["mean_difference"].tolist() == pytest.approx([0.025])
    with pytest.raises(StudyError, match="is named twice"):
        open_steps([names[0], names[0]])


def test_a_checksum_of_digits_and_no_commit(names):
    """As of a run outside of git, whose checksum happens to have no letter: text, zeros and all."""
    for name in names:
        table = pd.read_csv(f"{name}/runs.csv").assign(folds_checksum="012345678912", commit="")
        table.to_csv(f"{name}/runs.csv", index=False)
    steps = open_steps(names)
    assert set(steps[0].runs["folds_checksum"]) == {"012345678912"} and set(described(steps)["commit"]) == {""}


def test_how_many_views_were_averaged(names):
    """An export of an earlier version does not say it."""
    table = pd.read_csv(f"{names[0]}/runs.csv")
    table.assign(views=4).to_csv(f"{names[0]}/runs.csv", index=False)
    table.drop(columns="views").to_csv(f"{names[1]}/runs.csv", index=False)
    assert described(open_steps(names))["views"].tolist() == ["4", "–"]


@pytest.mark.parametrize(("file", "column", "value", "message"), [
    ("runs.csv", "folds_checksum", "other", "folds checksum c and other"),
    ("runs.csv", "dataset_fingerprint", "other", "dataset fingerprint f and other"),
    ("runs.csv", "seen_before", None, "lacks seen_before.*Export the study again"),
    ("per_image.csv", "system", "ukan", "last has no run of unet")])
def test_what_cannot_be_compared_is_refused(names, file, column, value, message):
    table = pd.read_csv(f"{names[1]}/{file}")
    (table.drop(columns=column) if value is None else table.assign(**{column: value})).to_csv(
        f"{names[1]}/{file}", index=False)
    with pytest.raises(StudyError, match=message):
        open_steps(names)


def test_no_rehearsal_that_could_not_be_compared(two_folds, monkeypatch, tmp_path):
    """The study's folder of 20 cases in another folder is the embedded phantom; with other folds it is not."""
    outputs = copied(two_folds.parents[2], tmp_path, monkeypatch)
    monkeypatch.setattr(rehearsal, "_train", lambda study, suffix, *_, **__: suffix)
    assert rehearsal.studies("two", "", "")[0] == ["two", "scanner-b", "strong", "transfer"]
    for file in (outputs / "two" / "runs").rglob("run.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"folds_checksum": "other"}))
    assert rehearsal.studies("two", "", "") == (["two"], [])


def test_unknown_names_are_refused(names, tmp_path):
    with pytest.raises(StudyError, match="there is no system unett"):
        open_steps(names, "unett")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="neither a study under .* nor a folder of `xbuslib export`"):
        open_steps([names[0], str(tmp_path / "empty")])
    assert rehearsal.studies("nowhere", "", "") == (["nowhere"], [])
    assert rehearsal.studies("nowhere", "a, b", "c") == (["nowhere", "a", "b"], ["c"])
    assert rehearsal.studies("nowhere", "a, nowhere, b", "") == (["a", "nowhere", "b"], [])
    assert elsewhere.scores(open_steps(names)).empty  # exports have no weights


@pytest.fixture(scope="module")
def alone(elsewhere, tmp_path_factory):
    """`elsewhere`, and the phantom's two folds scored by its run on scanner B, without training."""
    untrained = TINY.model_copy(update={"iterations": 0})
    with pytest.MonkeyPatch.context() as patch:
        outputs = copied(elsewhere, tmp_path_factory.mktemp("alone"), patch)
        source = open_source("phantom", "", "", untrained, "alone")
        for fold in (0, 1):
            run_fold("unet", fold, untrained, source, study="alone", start_from=outputs / "elsewhere")
    return outputs


@pytest.fixture
def here(alone, tmp_path, monkeypatch):
    return copied(alone, tmp_path, monkeypatch)


def test_without_iterations_a_run_predicts_what_its_ancestor_does(here):
    path, start = (here / name / "runs" / "unet" / fold / "seed_0" for name, fold in (("alone", "fold_0"),
                                                                                     ("elsewhere", "fold_all")))
    run, before, study = record.read(path), record.read(start), open_study("alone")
    cases = study.cases[study.cases["fold"] == 0].reset_index(drop=True)
    expected = Trained.load(start).predict(cases, study.prepared, "none", "none")
    maps = record.probabilities(path)
    assert np.abs(np.stack([maps[case] for case in cases["case_id"]]) - np.asarray(expected)).max() < 1e-3
    assert run["size_edges_px"] == before["size_edges_px"] and pd.read_csv(path / "history.csv").empty
    assert set(pd.read_csv(path / "seen.csv")["dataset"]) == {"phantom_b"}
    assert study.seen_before == {"unet": f"simulated phantom of scanner B, {before['train_cases']} images"}


def test_an_untrained_run_is_no_ancestor_of_its_own(here):
    source = open_source("phantom", "", "", TINY, "mine")
    path = run_fold("unet", 0, TINY, source, study="mine",
                    start_from=here / "alone" / "runs" / "unet" / "fold_0" / "seed_0")
    assert [ancestor["study"] for ancestor in record.read(path)["ancestors"]] == ["elsewhere"]


def test_no_iterations_need_a_start(here):
    config = TINY.model_copy(update={"iterations": 0})
    with pytest.raises(StudyError, match="iterations=0 scores .* give --start-from"):
        run_fold("unet", 0, config, open_source("phantom", "", "", config, "none"), study="none")


def test_fewer_training_images_are_a_subset_of_more(here):
    found = []
    for n in (2, 5, None):
        config = TINY.model_copy(update={"train_images": n})
        train, validation = open_source("phantom", "", "", config, "mine").split(0)
        found.append(set(train["case_id"]))
        assert n in (None, len(train)) and not found[-1] & set(validation["case_id"])
    assert found[0] < found[1] < found[2]
    config = TINY.model_copy(update={"train_images": 2})
    path = run_fold("unet", 0, config, open_source("phantom", "", "", config, "few"), study="few")
    assert record.read(path)["train_cases"] == 2 and set(pd.read_csv(path / "seen.csv")["case_id"]) == found[0]
    config = TINY.model_copy(update={"train_images": 99})
    with pytest.raises(StudyError, match=r"train_images=99, but there are \d+ training images"):
        open_source("phantom", "", "", config, "mine").split(0)


def test_one_dataset_left_out(here):
    config = TINY.model_copy(update={"fold_by": "dataset"})
    source = open_source("phantom_b+phantom", "", "", config, "lodo")
    train, validation = source.split(0)
    assert set(train["dataset"]) == {"phantom"} and set(validation["dataset"]) == {"phantom_b"}
    assert sorted(source.fold_of.unique()) == [0, 1] and len(train) + len(validation) == len(source.cases)
    with pytest.raises(StudyError, match="fold_by=dataset leaves one of several datasets out"):
        open_source("phantom", "", "", config, "mine")


def test_an_export_is_a_step_like_its_study(here, tmp_path):
    export("alone", tmp_path / "kept", data=False)
    study, kept = open_steps(["alone"])[0], open_steps([str(tmp_path / "kept")])[0]
    assert kept.study is None and kept.label == study.label == "scanner B alone"
    keys = ["system", "policy", "attributes", "fold", "case_id"]
    ours, theirs = (step.rows.sort_values(keys)[[*keys, *PAPER, "paper_name"]].reset_index(drop=True)
                    for step in (study, kept))
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False, atol=1e-6)
    assert kept.runs["images_before"].tolist() == study.runs["images_before"].tolist()
    both = open_steps(["alone", str(tmp_path / "kept")])
    assert [step.label for step in both] == ["scanner B alone (alone)", "scanner B alone (kept)"]


def test_at_another_hospital_an_image_that_was_trained_on_is_refused(here):
    steps = open_steps(["alone"])
    found = elsewhere.scores(steps, "phantom-B")
    assert found["n_target"].tolist() == [9] and found["step"].tolist() == ["scanner B alone"]
    with pytest.raises(StudyError, match="has been trained on images"):
        elsewhere.scores(steps, "phantom_b")


def test_traces_of_a_missed_lesion(here):
    folder = here / "alone" / "runs" / "unet" / "fold_0" / "seed_0"
    rows, prepared = pd.read_csv(folder / "per_image.csv", keep_default_na=False), open_study("alone").prepared
    case = rows["case_id"].iloc[0]
    rows["dice"] = np.where(rows["case_id"] == case, 0.0, 0.5)
    rows.to_csv(folder / "per_image.csv", index=False)
    maps, mask = record.probabilities(folder), prepared.masks[prepared.rows([case])[0]]
    maps[case][:] = 0.1
    maps[case][tuple(np.argwhere(mask)[0])], maps[case][tuple(np.argwhere(~mask)[0])] = 0.3, 0.6
    np.savez_compressed(folder / "probabilities.npz", case_ids=np.array(list(maps)),
                        probabilities=np.stack(list(maps.values())).astype(np.float16))
    step, = open_steps(["alone"])
    found = gains.missed_lesions(step)
    row = found[found["case_id"] == case].iloc[0]
    assert (row["inside"], row["outside"]) == pytest.approx((0.3, 0.6), abs=1e-3)
    assert row["marked"] == pytest.approx(100 / mask.size) and set(found["case_id"]) == set(
        step.default.loc[step.default["dice"] == 0, "case_id"])
    assert "nothing is marked anywhere in 0 and something else in 1. In 1 of the 1 the highest" in sentences.traces(
        found[found["case_id"] == case], step)
    assert sentences.traces(found[:0], step) == "No lesion is missed at the last step."


def test_what_the_first_pass_says(two_folds, monkeypatch, tmp_path):
    outputs = copied(two_folds.parents[2], tmp_path, monkeypatch)
    said = {"a small lesion in the upper left": 0.2, "a large lesion in the upper left": 0.9,
            "a lesion of unknown size": 0.4}
    for folder in (outputs / "two" / "runs" / "xbusnet").glob("fold_*/seed_0"):
        rows = pd.read_csv(folder / "per_image.csv", keep_default_na=False)
        cases = list(dict.fromkeys(rows["case_id"]))
        texts = {case: list(said)[i % 3] for i, case in enumerate(cases)}
        first = rows["policy"] == "first_pass"
        rows.loc[first, "global_text"] = rows.loc[first, "case_id"].map(texts)
        rows.loc[~first, "global_text"] = "a large lesion in the upper right quadrant of the image"
        rows["dice"] = np.where(first, rows["case_id"].map(texts).map(said), 0.5)
        rows.to_csv(folder / "per_image.csv", index=False)
    steps = open_steps(["two"])
    row, = first_pass.table(steps).itertuples()
    small = sum(i % 3 == 0 for fold in (0, 1) for i in range((steps[0].cases["fold"] == fold).sum()))
    large = sum(i % 3 == 1 for fold in (0, 1) for i in range((steps[0].cases["fold"] == fold).sum()))
    assert row.n == len(steps[0].cases) and row.none == pytest.approx(1 - (small + large) / row.n)
    assert row.size_right == pytest.approx(large / row.n) and row.size_smaller == pytest.approx(small / row.n)
    assert row.size_larger == 0 and row.location_right == 0
    wrong = (0.2 * small + 0.4 * (row.n - small - large)) / (row.n - large)
    assert (row.dice_right, row.dice_wrong, row.dice_wrong_silent) == pytest.approx((0.9, wrong, 0.5))
    table = first_pass.table(steps)
    told = first_pass.sentence(table, "uniform")
    assert "The first pass of XBusNet" in told and f", none in {row.none:.0%}) and the right quadrant in 0%" in told
    assert f"is 0.900; where it is not, the mean Dice is {wrong:.3f}, and 0.500 with a prompt" in told
    every_right = table.assign(none=0.0, dice_wrong=np.nan, dice_wrong_silent=np.nan)
    assert first_pass.sentence(every_right, "uniform").endswith("Where the size is right, the mean Dice is 0.900.")
    assert ". Where it is not, the mean Dice is" in first_pass.sentence(table.assign(dice_right=np.nan), "uniform")
    assert first_pass.sentence(first_pass.table(steps), "strong") == ""  # an export, which has no prompts
