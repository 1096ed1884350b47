"""The committed reference run: its Table 1 from its own scores by plain arithmetic, and the copy in the README."""

import csv
import re
import statistics
from collections import defaultdict

import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "outputs" / "reference" / "phantom-quick"


def rows(file):
    with open(FOLDER / file, encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_table_1_follows_from_the_images():
    scores = defaultdict(list)
    for row in rows("per_image.csv"):
        for metric in ("dice", "iou", "fpr", "fnr", "dice_two_class", "iou_two_class", "fpr_released", "fnr_two_class"):
            scores[row["system"], row["policy"], row["attributes"], metric, row["fold"]].append(float(row[metric]))
    table = rows("tables/05/table_1_policies.csv")
    assert len(table) >= 12
    for row in table:
        key = row["system"], row["policy"], row["attributes"]
        for metric in ("dice", "iou", "fpr", "fnr", "dice_two_class", "fnr_two_class"):
            folds = [statistics.fmean(scores[*key, metric, str(fold)]) for fold in range(5)]
            assert float(row[metric]) == pytest.approx(statistics.fmean(folds), abs=2e-6)
            assert float(row[f"{metric}_sd"]) == pytest.approx(statistics.stdev(folds), abs=2e-6)


def test_every_run_is_of_one_commit_and_one_protocol():
    runs = rows("runs.csv")
    assert len(runs) == 60 and {run["dirty"] for run in runs} == {"False"}
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
