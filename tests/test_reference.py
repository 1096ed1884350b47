"""The committed reference runs: Table 1 from their own scores by plain arithmetic, and the copies in the README."""

import csv
import re
import statistics
from collections import defaultdict

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "outputs" / "reference"
RUNS = {"phantom-quick": (60, 12), "blu-160": (20, 3)}  # runs; least number of rows of Table 1


def rows(file, study="phantom-quick"):
    with open(FOLDER / study / file, encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("study", RUNS)
def test_table_1_follows_from_the_images(study):
    scores = defaultdict(list)
    for row in rows("per_image.csv", study):
        for metric in ("dice", "iou", "fpr", "fnr", "dice_two_class", "iou_two_class", "fpr_released", "fnr_two_class"):
            scores[row["system"], row["policy"], row["attributes"], metric, row["fold"]].append(float(row[metric]))
    table = rows("tables/05/table_1_policies.csv", study)
    assert len(table) >= RUNS[study][1]
    for row in table:
        key = row["system"], row["policy"], row["attributes"]
        for metric in ("dice", "iou", "fpr", "fnr", "dice_two_class", "fnr_two_class"):
            folds = [statistics.fmean(scores[*key, metric, str(fold)]) for fold in range(5)]
            assert float(row[metric]) == pytest.approx(statistics.fmean(folds), abs=2e-6)
            assert float(row[f"{metric}_sd"]) == pytest.approx(statistics.stdev(folds), abs=2e-6)


@pytest.mark.parametrize("study", RUNS)
def test_every_run_is_of_one_commit_and_one_protocol(study):
    runs = rows("runs.csv", study)
    assert len(runs) == RUNS[study][0] and {run["dirty"] for run in runs} == {"False"}
    for key in ("commit", "config_digest", "dataset_fingerprint", "folds_checksum"):
        assert len({run[key] for run in runs}) == 1


def test_the_readme_shows_this_table_and_names_this_commit():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert rows("runs.csv")[0]["commit"][:8] in readme and "simulated phantom" in readme
    for row in rows("tables/05/table_1.csv"):
        shown = f"| {row['paper_name']} | `{row['policy']}` | {row['attributes']} | {float(row['dice']):.3f} ± " \
                f"{float(row['dice_sd']):.3f} | {float(row['iou']):.3f} ± {float(row['iou_sd']):.3f} |"
        assert shown in readme
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme):
        assert (REPOSITORY / picture).is_file()


def test_the_readme_shows_the_table_of_blu():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = rows("tables/05/table_1_policies.csv", "blu-160")
    shown = [" | ".join(f"{float(row[m]):.3f} ± {float(row[m + '_sd']):.3f}" for m in ("dice", "iou", "dice_two_class"))
             for row in table if (row["policy"], row["attributes"]) != ("none", "metadata")]
    assert len(shown) == 7 and all(text in readme for text in shown)
    assert rows("runs.csv", "blu-160")[0]["commit"][:8] in readme


def test_the_readme_shows_every_system_on_fold_0_of_blu():
    """Score and minutes of each system by its default policy, and the commits of the runs."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    scores = defaultdict(list)
    for row in rows("per_image.csv", "blu-160-fold-0"):
        if row["default"] == "True":
            scores[row["system"]].append([float(row[metric]) for metric in ("dice", "iou", "dice_two_class")])
    runs = rows("runs.csv", "blu-160-fold-0")
    assert len(runs) == 12 and {run["dirty"] for run in runs} == {"False"}
    for run in runs:
        means = " | ".join(f"{statistics.fmean(values):.3f}" for values in zip(*scores[run["system"]], strict=True))
        shown = rf"\| `{run['system']}` \| [^|]+ \| {re.escape(means)} \| {float(run['total_s']) / 60:.1f} \|"
        assert re.search(shown, readme), shown
        assert run["commit"][:8] in readme


@pytest.mark.parametrize("study", ["blu-160", "blu-160-fold-0"])
def test_no_metadata_of_blu_is_kept(study):
    assert list(rows("cases.csv", study)[0]) == ["case_id", "width_px", "height_px", "long_side_px", "long_side_mm",
                                                 "lesion_fraction", "fold"]
    assert not list((FOLDER / study).rglob("*.png")) + list((FOLDER / study).rglob("*.ipynb"))
