"""Where patients have several images, tests and intervals count patients; where each has one, nothing changes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from xbuslib.analyses.performance.comparisons import compare_all
from xbuslib.analyses.robustness import robustness
from xbuslib.config import resolve
from xbuslib.evaluation import statistics
from xbuslib.runs import source
from xbuslib.runs.study import open_study


def scores(seed: int, patients: int, copies: int = 1, sort: str = "p") -> pd.DataFrame:
    """Scores of two systems: each patient has `copies` images that both systems score alike."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0.3, 0.9, patients), rng.uniform(0.3, 0.9, patients)
    rows = [{"system": name, "policy": "none", "attributes": "none", "fold": patient % 3, "seed": 0,
             "case_id": f"{patient}-{copy}", "patient_id": f"{sort}{patient}", "dice": values[patient]}
            for name, values in (("a", first), ("b", second)) for patient in range(patients) for copy in range(copies)]
    return pd.DataFrame(rows)


def test_repeating_each_image_tells_nothing_new():
    """Ten pictures of the same lesion are one lesion: p, effect and interval stay, to the bootstrap's own noise."""
    once, often = (statistics.compare(scores(1, 40, copies), "a", "b", "dice") for copies in (1, 10))
    assert (once["n"], once["patients"]) == (40, 40) and (often["n"], often["patients"]) == (400, 40)
    for key in ("p", "statistic", "rank_biserial", "mean_difference"):
        assert often[key] == pytest.approx(once[key], abs=1e-12)
    width = once["high"] - once["low"]
    assert (often["low"], often["high"]) == pytest.approx((once["low"], once["high"]), abs=0.06 * width)
    alone = statistics.compare(scores(1, 40, 10).drop(columns="patient_id"), "a", "b", "dice")
    assert alone["high"] - alone["low"] < 0.5 * width  # what counting images would have claimed


def uneven(seed: int) -> pd.DataFrame:
    """Thirty patients with one to five images of their own."""
    rng, rows = np.random.default_rng(seed), []
    for patient in range(30):
        level = rng.normal(0.05, 0.1)
        for copy in range(rng.integers(1, 6)):
            case = {"policy": "none", "attributes": "none", "fold": 0, "seed": 0, "case_id": f"{patient}-{copy}",
                    "patient_id": f"p{patient}"}
            other = rng.uniform(0.3, 0.6)
            rows += [case | {"system": "a", "dice": other + level + rng.normal(0, 0.02)},
                     case | {"system": "b", "dice": other}]
    return pd.DataFrame(rows)


def test_the_test_ranks_patients_means_and_the_interval_draws_patients():
    rows = uneven(2)
    table = rows.pivot(index=["patient_id", "case_id"], columns="system", values="dice")
    difference = table["a"] - table["b"]
    found = statistics.compare(rows, "a", "b", "dice")
    assert found["mean_difference"] == pytest.approx(difference.mean())  # over images
    assert found["p"] == pytest.approx(wilcoxon(difference.groupby("patient_id").mean()).pvalue)
    groups = [part.to_numpy() for _, part in difference.groupby("patient_id")]
    rng, means = np.random.default_rng(99), []
    for _ in range(4000):
        means.append(np.concatenate([groups[i] for i in rng.integers(30, size=30)]).mean())
    low, high = np.quantile(means, (0.025, 0.975))
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_the_interaction_draws_patients():
    """Ten images of each of six patients, alike: as wide as of six images, one of each."""
    rng = np.random.default_rng(5)
    names, level = ("xbusnet", "xbusnet-no-sfa", "xbusnet-no-lfe", "xbusnet-no-lfe-no-sfa"), rng.uniform(0, 1, (4, 6))
    rows = pd.DataFrame([{"system": name, "policy": "none", "attributes": "none", "fold": 0, "seed": 0,
                          "case_id": f"{patient}-{copy}", "patient_id": str(patient), "dice": level[row, patient]}
                         for row, name in enumerate(names) for patient in range(6) for copy in range(10)])
    often = statistics.interaction(rows)
    once = statistics.interaction(rows[rows["case_id"].str.endswith("-0")])
    width = once["high"] - once["low"]
    assert (often["n"] == 60).all() and (once["n"] == 6).all()
    assert ((often["high"] - often["low"] - width).abs() < 0.1 * width).all()


def test_one_image_of_each_patient_is_as_before():
    """By hand: scipy's bootstrap of the differences themselves, with the seed that is always used."""
    from scipy.stats import bootstrap

    rows = scores(3, 25)
    found = statistics.compare(rows, "a", "b", "dice")
    assert found == statistics.compare(rows.drop(columns="patient_id"), "a", "b", "dice")
    wide = rows.sort_values(["fold", "patient_id"]).pivot(index=["fold", "patient_id"], columns="system", values="dice")
    wanted = bootstrap(((wide["a"] - wide["b"]).to_numpy(),), np.mean, method="percentile", n_resamples=5000,
                       rng=np.random.default_rng(0)).confidence_interval
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_shares_of_patients_with_several_images():
    """Ten patients of five images each, six of them hits throughout: as wide as of ten, not of fifty."""
    hits, patients = np.repeat([1] * 6 + [0] * 4, 5).astype(bool), np.repeat(np.arange(10), 5)
    low, high = statistics.share_interval(hits, patients)
    assert (low, high) == pytest.approx((0.3, 0.9), abs=0.05)  # 2.5 and 97.5 % of a binomial of ten, p = 0.6
    narrow = statistics.share_interval(hits, np.arange(50))
    assert narrow[1] - narrow[0] < 0.3 < high - low


def test_a_bootstrap_sample_holds_whole_patients():
    patients = np.array(["x", "y", "x", "z", "y", "x"])
    for seed in range(20):
        drawn = statistics.drawn_rows(patients, np.random.default_rng(seed))
        counts = np.bincount(drawn, minlength=6)
        assert counts[0] == counts[2] == counts[5] and counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3  # three patients are drawn


def test_lists_that_divide_a_patient_are_used_with_a_note(tmp_path, capsys):
    cases = pd.DataFrame({"case_id": list("abcdef"), "patient_id": list("ppqqrr")})
    for fold, names in enumerate(("abc", "def")):
        pd.DataFrame({"Image Name": [f"{name}.png" for name in names]}).to_csv(tmp_path / f"val_fold{fold}.csv")
    pairs = pd.DataFrame({"one": [], "other": []}, dtype=str)
    assert source._folds(cases, tmp_path, resolve("smoke", ["folds=2"]), pairs)["c"] == 0
    assert "the images of 1 patient(s) are in several folds (first: q); their scores are too good" in \
        capsys.readouterr().err


def test_of_a_study(smoke_study, tmp_path, monkeypatch):
    """Two images of each patient in cases.csv: the paired tests and the robustness table know it."""
    shutil.copytree(smoke_study.folder.parent, tmp_path / "outputs")
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    folder = tmp_path / "outputs" / smoke_study.name
    for file in folder.glob("runs/*/*/*/cases.csv"):
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        table["patient_id"] = [f"{json.loads((file.parent / 'run.json').read_text())['fold']}-{i // 2}"
                               for i in range(len(table))]
        table.to_csv(file, index=False)
    study = open_study(smoke_study.name)
    half = sum(-(-len(part) // 2) for _, part in study.cases.groupby("fold"))
    tests = compare_all(study)
    assert set(tests["n"]) == {len(study.cases)} and set(tests["patients"]) == {half}
    rows = pd.DataFrame({"baseline": "first_pass", "group": "g", "variation": "typos", "wrong": True, "draw": 0,
                         "fold": 0, "case_id": [str(i) for i in range(12)],
                         "patient_id": [str(i // 6) for i in range(12)], "prompt_changed": True, "dice": 0.5,
                         "change": [0.2] * 6 + [-0.2] * 6})
    low, high = robustness.summary(rows).loc[0, ["low", "high"]]
    assert (low, high) == pytest.approx((-0.2, 0.2))  # one of two patients may stand for both
