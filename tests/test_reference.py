"""The committed reference runs: Table 1 from their own scores by plain arithmetic, and the copies in the README."""

import csv
import itertools
import json
import re
import statistics
import subprocess
from collections import defaultdict

import pandas as pd
import pytest

from tests.conftest import REPOSITORY
from xbuslib.models import registry

FOLDER = REPOSITORY / "outputs" / "reference"
DOCS = REPOSITORY / "docs"
RUNS = {"phantom-quick": 60, "blu-160": 35, "blu-160-repeat": 10, "blu-160-transfer": 10,
        "blu-160-strong": 10, "blu-160-strong-200": 2, "blu-160-strong-200-n100": 2,
        "blu-160-strong-200-n50": 2, "blu-160-busbra-300": 2, "blu-160-busbra-600": 2,
        "blu-160-busbra-600-n100": 2, "blu-160-busbra-600-n50": 2,
        "blu-160-busbra-300-alone": 2, "blu-160-busbra-600-alone": 2}
DIRTY = {"blu-160-transfer": {"True"}}  # a test file was changed, as outputs/reference/README.md says
ROWS = {"phantom-quick": 12, "blu-160": 8, "blu-160-transfer": 7}  # at least, of Table 1 by policy


def rows(file, study="phantom-quick"):
    with open(FOLDER / study / file, encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("study", ROWS)
def test_table_1_follows_from_the_images(study):
    scores = defaultdict(list)
    for row in rows("per_image.csv", study):
        for metric in ("dice", "iou", "fpr", "fnr", "dice_two_class", "iou_two_class", "fpr_released", "fnr_two_class"):
            scores[row["system"], row["policy"], row["attributes"], metric, row["fold"]].append(float(row[metric]))
    table = rows("tables/05/table_1_policies.csv", study)
    assert len(table) >= ROWS[study]
    for row in table:
        key = row["system"], row["policy"], row["attributes"]
        for metric in ("dice", "iou", "fpr", "fnr", "dice_two_class", "fnr_two_class"):
            folds = [statistics.fmean(scores[*key, metric, str(fold)]) for fold in range(5)]
            assert float(row[metric]) == pytest.approx(statistics.fmean(folds), abs=2e-6)
            assert float(row[f"{metric}_sd"]) == pytest.approx(statistics.stdev(folds), abs=2e-6)


@pytest.mark.parametrize("study", RUNS)
def test_every_run_is_of_one_commit_and_one_protocol(study):
    runs = rows("runs.csv", study)
    assert len(runs) == RUNS[study] and {run["dirty"] for run in runs} == {"False"} | DIRTY.get(study, set())
    for key in ("commit", "protocol", "dataset_fingerprint", "folds_checksum"):
        assert len({run[key] for run in runs}) == 1


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def test_the_results_show_the_table_of_the_phantom_and_its_commit():
    page = text_of("docs/results.md")
    assert rows("runs.csv")[0]["commit"][:8] in page and "simulated phantom" in page
    table = rows("tables/05/table_1_systems.csv")
    assert len(table) == 8
    for row in table:
        numbers = " | ".join(f"{float(row[m]):.3f} ± {float(row[m + '_sd']):.3f}"
                             for m in ("dice", "iou", "fpr", "fnr", "dice_two_class"))
        assert f"| {row['paper_name']} | `{row['policy']}` | {row['attributes']} | {numbers} |" in page


def test_the_readme_shows_the_table_of_blu():
    readme = text_of("README.md")
    table = [row for row in rows("tables/05/table_1_policies.csv", "blu-160")
             if row["system"] in ("unet", "uresnet", "xbusnet")]
    shown = [" | ".join(f"{float(row[m]):.3f} ± {float(row[m + '_sd']):.3f}" for m in ("dice", "iou", "dice_two_class"))
             for row in table]
    assert len(shown) == 8 and all(f"| {text} |" in readme for text in shown)
    assert rows("runs.csv", "blu-160")[0]["commit"][:8] in readme


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_the_steps_of_training_are_shown_with_what_was_seen_before(page):
    """Every row of the notebook's table, which follows from the kept scores by plain arithmetic."""
    table = rows("tables/15/overall.csv", "blu-160-transfer")
    assert len(table) == 6
    for row in table:
        scores = r" \| ".join(f"{float(row[m]):.3f} ± {float(row[m + '_sd']):.3f}" for m in ("dice", "iou"))
        shown = rf"\| {row['paper_name']} \| [^|]+ \| {row['seen_before']} \| [^|]+ \| {scores} \| "
        assert re.search(rf"{shown}{float(row['missed']):.0f} \|", text_of(page)), shown
        kept = {"uniform": "blu-160", "BUS-BRA alone": "blu-160-busbra-alone",
                "strong, from BUS-BRA": "blu-160-transfer"}[row["step"]]
        folds = defaultdict(list)
        for image in rows("per_image.csv", kept):
            if image["system"] == row["system"] and image["default"] == "True":
                folds[image["fold"]].append(float(image["dice"]))
        means = [statistics.fmean(values) for values in folds.values()]
        assert float(row["dice"]) == pytest.approx(statistics.fmean(means), abs=2e-6)


def test_the_results_show_the_shorter_training():
    page, scores = text_of("docs/results.md"), defaultdict(lambda: defaultdict(list))
    for image in rows("per_image.csv", "blu-160-transfer-400"):
        if image["default"] == "True":
            scores[image["system"]][image["fold"]].append((float(image["dice"]), float(image["iou"])))
    for system, name in (("xbusnet", "XBusNet"), ("uresnet", "U-ResNet")):
        means = [[statistics.fmean(values) for values in zip(*fold, strict=True)] for fold in scores[system].values()]
        dice, iou = (f"{statistics.fmean(folds):.3f} ± {statistics.stdev(folds):.3f}"
                     for folds in zip(*means, strict=True))
        images = [dice for fold in scores[system].values() for dice, _ in fold]
        told = rf"{dice} \| {iou} \| {statistics.median(images):.3f} \| {images.count(0)} \|"
        assert len(images) == 252 and re.search(rf"\| {name} \| [^|]+ \| {told}", page), told


def test_the_results_show_the_strong_recipe_on_blu_alone():
    from xbuslib.evaluation import statistics as paired

    page, readme = " ".join(text_of("docs/results.md").split()), text_of("README.md")
    scores = defaultdict(lambda: defaultdict(list))
    for image in rows("per_image.csv", "blu-160-strong"):
        scores[image["system"], image["policy"], image["attributes"]][image["fold"]].append(
            (float(image["dice"]), float(image["iou"])))
    for name, policy, attributes, words in (
            ("XBusNet", "first_pass", "metadata", "its own first pass, attributes"),
            ("XBusNet", "none", "none", "nothing"),
            ("XBusNet", "reference", "metadata", "size and location of the reference lesion, attributes"),
            ("U-ResNet", "none", "none", "–")):
        folds = scores[name.lower().replace("-", ""), policy, attributes]
        images = [dice for fold in folds.values() for dice, _ in fold]
        means = [[statistics.fmean(values) for values in zip(*fold, strict=True)] for fold in folds.values()]
        dice, iou = (f"{statistics.fmean(one):.3f} ± {statistics.stdev(one):.3f}" for one in zip(*means, strict=True))
        assert len(means) == 5 and len(images) == 252
        assert f"| {name} | {words} | {dice} | {iou} | {statistics.median(images):.3f} | {images.count(0)} |" in page
        if words == "–" or policy == "first_pass":
            assert f"| {name} | BLU alone, `strong` | none | {words} | {dice} | {iou} | {images.count(0)} |" in readme
    for run in rows("runs.csv", "blu-160-strong"):
        assert (run["recipe"], run["iterations"], run["seen_before"]) == ("strong", "1000", "none")
    defaults = {study: table[table["default"]] for study in ("blu-160-strong", "blu-160", "blu-160-transfer")
                for table in [pd.read_csv(FOLDER / study / "per_image.csv", keep_default_na=False)]}

    def told(rows, one, two):
        pair = paired.compare(rows, one, two, "dice")
        return f"{signed(pair['mean_difference'])}, 95 % {signed(pair['low'])} to {signed(pair['high'])}"

    for system, other in itertools.product(("xbusnet", "uresnet"), ("blu-160", "blu-160-transfer")):
        both = pd.concat([defaults[study][defaults[study]["system"] == system].assign(system=study)
                          for study in ("blu-160-strong", other)])
        change = told(both, "blu-160-strong", other)
        assert change in page and (other != "blu-160" or f"({change})" in " ".join(readme.split()))
    change = told(defaults["blu-160-strong"], "xbusnet", "uresnet")
    assert f"({change})" in " ".join(readme.split()) and f"({change}; " in page


def test_the_learning_curve_of_the_results_is_that_of_the_kept_scores():
    """Its points on folds 0 and 1, those of the notebook among them, and the paired differences that are told."""
    from xbuslib.evaluation import statistics as paired

    page, readme, own = (*(" ".join(text_of(name).split()) for name in ("docs/results.md", "README.md")), {})
    for study, images in {"blu-160-strong-200-n50": "0 | 50 | 200",
                          "blu-160-strong-200-n100": "0 | 100 | 200", "blu-160-strong-200": "0 | 201 | 200",
                          "blu-160-busbra-300-alone": "300 | 0 | 0", "blu-160-busbra-600-alone": "600 | 0 | 0",
                          "blu-160-busbra-alone": "1244 | 0 | 0", "blu-160-busbra-600-n50": "600 | 50 | 200",
                          "blu-160-busbra-600-n100": "600 | 100 | 200", "blu-160-busbra-300": "300 | 201 | 200",
                          "blu-160-busbra-600": "600 | 201 | 200", "blu-160-transfer": "1244 | 201 | 200",
                          "blu-160-strong": "0 | 201 | 1000, batch 4"}.items():
        scores = pd.read_csv(FOLDER / study / "per_image.csv", keep_default_na=False)
        own[study] = scores[scores["default"] & (scores["system"] == "uresnet") & scores["fold"].isin([0, 1])]
        first, second = own[study].groupby("fold")["dice"].mean()
        assert (f"| {images} | {first:.3f} | {second:.3f} | {(first + second) / 2:.3f} | "
                f"{(own[study]['dice'] == 0).sum()} |") in page
    points = {row["step"]: float(row["dice"]) for row in rows("tables/15/curve.csv", "blu-160-strong")
              if row["system"] == "uresnet"}
    for step, study in {"strong (blu-160-strong-200-n50)": "blu-160-strong-200-n50",
                        "strong (blu-160-strong-200-n100)": "blu-160-strong-200-n100",
                        "strong (blu-160-strong-200)": "blu-160-strong-200",
                        "BUS-BRA alone (blu-160-busbra-alone)": "blu-160-busbra-alone",
                        "BUS-BRA alone (blu-160-busbra-300-alone)": "blu-160-busbra-300-alone",
                        "BUS-BRA alone (blu-160-busbra-600-alone)": "blu-160-busbra-600-alone",
                        "strong, from BUS-BRA (blu-160-busbra-600-n50)": "blu-160-busbra-600-n50",
                        "strong, from BUS-BRA (blu-160-busbra-600-n100)": "blu-160-busbra-600-n100",
                        "strong, from BUS-BRA (blu-160-busbra-300)": "blu-160-busbra-300",
                        "strong, from BUS-BRA (blu-160-busbra-600)": "blu-160-busbra-600",
                        "strong, from BUS-BRA (blu-160-transfer)": "blu-160-transfer"}.items():
        assert points.pop(step) == pytest.approx(own[study].groupby("fold")["dice"].mean().mean(), abs=2e-6)
    means = {study: f"{table.groupby('fold')['dice'].mean().mean():.3f}" for study, table in own.items()}
    assert not points and (
        "reaches {blu-160-strong-200} on folds 0 and 1, and {blu-160-busbra-300}, {blu-160-busbra-600} and "
        "{blu-160-transfer} after 300, 600 and 1244 images of it; 50 images of BLU after 600 of BUS-BRA give "
        "{blu-160-busbra-600-n50} ".format(**means)) in readme
    for one, two in (("blu-160-transfer", "blu-160-strong-200"), ("blu-160-strong-200", "blu-160-strong-200-n100"),
                     ("blu-160-strong-200", "blu-160-strong-200-n50"),
                     ("blu-160-strong", "blu-160-transfer"), ("blu-160-strong", "blu-160-busbra-600"),
                     ("blu-160-busbra-300", "blu-160-strong-200"), ("blu-160-busbra-600", "blu-160-strong-200"),
                     ("blu-160-transfer", "blu-160-busbra-300"), ("blu-160-transfer", "blu-160-busbra-600"),
                     ("blu-160-busbra-alone", "blu-160-busbra-300-alone"),
                     ("blu-160-busbra-alone", "blu-160-busbra-600-alone"),
                     ("blu-160-busbra-600-n100", "blu-160-strong-200-n100"),
                     ("blu-160-busbra-600-n50", "blu-160-strong-200-n50"),
                     ("blu-160-busbra-600", "blu-160-busbra-600-n100"),
                     ("blu-160-busbra-600", "blu-160-busbra-600-n50"),
                     ("blu-160-busbra-600-n50", "blu-160-strong-200")):
        pair = paired.compare(pd.concat([own[one].assign(system=one), own[two].assign(system=two)]), one, two, "dice")
        ends = f"95 % {signed(pair['low'])} to {signed(pair['high'])}"
        assert pair["n"] == 102 and f"{signed(pair['mean_difference'])}, {ends}" in page
        if (one, two) == ("blu-160-transfer", "blu-160-strong-200"):
            assert f"adds {pair['mean_difference']:.3f} to U-ResNet (two folds, {ends})" in readme
    for study in ("blu-160-strong-200", "blu-160-strong-200-n100", "blu-160-strong-200-n50"):
        for run in rows("runs.csv", study):
            assert (run["recipe"], run["iterations"], run["seen_before"], run["precision"]) == (
                "strong", "200", "none", "float32") and run["commit"][:8] in text_of("docs/results.md")


@pytest.mark.parametrize("study, seen, images, iterations", [
    ("blu-160-busbra-300", 300, 201, 200), ("blu-160-busbra-600", 600, 201, 200),
    ("blu-160-busbra-600-n100", 600, 100, 200), ("blu-160-busbra-600-n50", 600, 50, 200),
    ("blu-160-busbra-300-alone", 300, 0, 0), ("blu-160-busbra-600-alone", 600, 0, 0)])
def test_what_the_runs_from_fewer_images_were(study, seen, images, iterations):
    for run in rows("runs.csv", study):
        assert run["seen_before"] == f"BUS-BRA, {seen} images" and run["precision"] == "float32"
        assert (run["train_images"], run["iterations"]) == (str(images), str(iterations))
        assert run["commit"].startswith("6dd4aaad") and "6dd4aaad" in text_of("docs/results.md")


@pytest.mark.parametrize("study, iterations", [("blu-160-transfer", "200"), ("blu-160-transfer-400", "120"),
                                               ("blu-160-busbra-alone", "0")])
def test_what_the_runs_from_another_hospital_were(study, iterations):
    runs = rows("runs.csv", study)
    assert len(runs) == 10 and {run["protocol"] for run in runs} == {"2"}
    for run in runs:
        assert (run["recipe"], run["iterations"], run["seen_before"]) == ("strong", iterations, "BUS-BRA, 1244 images")
        assert run["commit"][:8] in text_of("docs/results.md") and run["commit"][:8] in text_of(
            "outputs/reference/README.md")


def test_the_results_show_the_third_hospital_sizes_and_prompts():
    page = text_of("docs/results.md")
    for row in rows("tables/15/elsewhere.csv", "blu-160-transfer"):
        change = f"{signed(row['difference'])} ({signed(row['low'])} to {signed(row['high'])})"
        assert (f"| {row['paper_name']} | {row['step']} | {float(row['in_domain']):.3f} | "
                f"{float(row['at_target']):.3f} | {change} |") in page
    for row in rows("tables/15/by_size.csv", "blu-160-transfer"):
        assert (f"| {row['paper_name']} | {row['step']} | {row['bin']} px | {row['n']} | {float(row['dice']):.3f} | "
                f"{float(row['missed']):.0f} |") in page
    for row in rows("tables/15/prompts.csv", "blu-160-transfer"):
        prompt = row["prompt"].replace("nothing", "empty")
        assert f"| {row['step']} | {prompt} | {float(row['dice']):.3f} ± {float(row['dice_sd']):.3f} | " in page


def test_the_finding_on_other_hospitals_is_that_of_the_notebook():
    readme, step = " ".join(text_of("README.md").split()), "strong, from BUS-BRA"
    change = {row["system"]: row for row in rows("tables/15/changes.csv", "blu-160-transfer")
              if row["compared_with"] == "uniform" and row["step"] == step}
    last = {row["system"]: float(row["dice"]) for row in rows("tables/15/overall.csv", "blu-160-transfer")
            if row["step"] == step}
    for name, system in (("and U-ResNet", "uresnet"), ("XBusNet reaches a lesion Dice of", "xbusnet")):
        row = change[system]
        assert (f"{name} {last[system]:.3f} ({signed(row['mean_difference'])}, 95 % {signed(row['low'])} to "
                f"{signed(row['high'])})") in readme
    first = next(row for row in rows("tables/15/first_pass.csv", "blu-160-transfer") if row["step"] == step)
    right, there, elsewhere = (float(first[key]) for key in ("size_right", "dice_right", "dice_wrong"))
    assert f"in {right:.0%} of the images; its Dice is {there:.3f} there and {elsewhere:.3f} elsewhere" in readme


def signed(value: str) -> str:
    return f"{float(value):+.3f}".replace("-", "−")


def test_the_findings_of_the_readme_are_those_of_blu():
    """Means, difference and interval over all images and by size, from the kept scores."""
    from xbuslib.evaluation import statistics as paired

    readme = " ".join(text_of("README.md").split())
    test = next(row for row in rows("tables/05/paired_tests.csv", "blu-160")
                if (row["metric"], row["against"]) == ("dice", "uresnet"))
    assert f"{signed(test['mean_difference'])}, 95 % {signed(test['low'])} to {signed(test['high'])}" in readme
    assert float(test["p_holm"]) > 0.05 and "not significantly different" in readme
    scores = pd.DataFrame(rows("per_image.csv", "blu-160")).astype({"dice": float, "fold": int, "seed": int})
    sides = {row["case_id"]: float(row["long_side_px"]) for row in rows("cases.csv", "blu-160")}
    own, size = scores[scores["default"] == "True"], scores["case_id"].map(sides)
    for low, high, words in ((0, 110, "on the {n} lesions of up to 110 pixels"), (110, 250, "on the {n} of 111 to 250"),
                             (250, 1e9, "on the {n} larger ones")):
        pair = paired.compare(own[(size > low) & (size <= high)], "xbusnet", "uresnet", "dice")
        assert (f"{signed(pair['mean_difference'])} (95 % {signed(pair['low'])} to {signed(pair['high'])}) "
                f"{words.format(n=pair['n'])}") in readme
    table = {row["system"]: row for row in rows("tables/05/table_1.csv", "blu-160")}
    ours, plain = (f"{float(table[system]['dice']):.3f}" for system in ("xbusnet", "uresnet"))
    assert f"lesion Dice of {ours} and U-ResNet {plain}" in readme
    reference = next(row for row in rows("tables/05/table_1_policies.csv", "blu-160") if row["policy"] == "reference")
    assert f"ours, with its size class and quadrant in the prompt, is {float(reference['dice']):.3f}" in readme
    without = {row["against"]: row for row in rows("tables/07/paired_tests.csv", "blu-160") if row["metric"] == "dice"}
    lost = float(without["xbusnet-no-lfe"]["mean_difference"])
    assert f"Without its local branch, the Dice of XBusNet falls by {lost:.3f}" in readme
    for system in ("xbusnet-no-gfe", "xbusnet-no-sfa"):
        row = without[system]
        assert f"({signed(str(-float(row['mean_difference'])))}, adjusted p = {float(row['p_holm']):.2f}" in readme
        assert float(row["p_holm"]) > 0.05


def test_the_repeat_on_another_machine_is_told_and_of_the_same_settings():
    """Systems, folds and settings of blu-160; what differs is the machine and the commit."""
    results, page = (" ".join(text_of(name).split()) for name in ("docs/results.md", "docs/reliability.md"))
    means = {}
    for row in rows("per_image.csv", "blu-160-repeat"):
        if row["default"] == "True":
            means.setdefault(row["system"], defaultdict(list))[row["fold"]].append(float(row["dice"]))
    dice = {system: statistics.fmean(map(statistics.fmean, folds.values())) for system, folds in means.items()}
    assert f"machine gave {dice['xbusnet']:.3f} and {dice['uresnet']:.3f}" in results
    assert f"{dice['xbusnet']:.3f} for `xbusnet` and {dice['uresnet']:.3f} for `uresnet`" in page
    table = {row["system"]: float(row["dice"]) for row in rows("tables/05/table_1.csv", "blu-160")}
    assert f"{table['xbusnet']:.3f} and {table['uresnet']:.3f} on another" in page
    settings = "protocol", "dataset_fingerprint", "folds_checksum", "recipe", "iterations", "weights", "seed"
    first, again = ({(run["system"], run["fold"]): [run[key] for key in settings] for run in rows("runs.csv", study)}
                    for study in ("blu-160", "blu-160-repeat"))
    assert len(again) == 10 and all(first[run] == told for run, told in again.items())


def test_the_results_show_every_system_on_fold_0_of_blu():
    """Score, minutes and commit of each system by its default policy."""
    page, scores = text_of("docs/results.md"), defaultdict(list)
    for row in rows("per_image.csv", "blu-160-fold-0"):
        if row["default"] == "True":
            scores[row["system"]].append([float(row[metric]) for metric in ("dice", "iou", "dice_two_class")])
    runs = rows("runs.csv", "blu-160-fold-0")
    assert {run["system"] for run in runs} == set(registry.names())
    assert {run["dirty"] for run in runs} == {"False"}
    for run in runs:
        means = " | ".join(f"{statistics.fmean(values):.3f}" for values in zip(*scores[run["system"]], strict=True))
        minutes = float(run["total_s"]) / 60
        shown = rf"\| `{run['system']}` \| [^|]+ \| {re.escape(means)} \| {minutes:.1f} \| {run['commit'][:8]} \|"
        assert re.search(shown, page), shown


def test_the_results_show_table_4_of_blu():
    page, kept = text_of("docs/results.md"), defaultdict(lambda: defaultdict(list))
    for row in rows("per_image.csv", "blu-160"):
        if row["default"] == "True":
            kept[row["system"]][row["fold"]].append(float(row["dice"]))
    table = rows("tables/07/table_4_all.csv", "blu-160")
    assert len(table) == 5
    for row in table:
        folds = [statistics.fmean(kept[row["system"]][str(fold)]) for fold in range(5)]
        dice = f"{statistics.fmean(folds):.3f} ± {statistics.stdev(folds):.3f}"
        parts = " | ".join("yes" if row[part] == "True" else "no" for part in ("lfe", "gfe", "sfa"))
        assert f"| {row['paper_name']} | {parts} | {dice} | " in page
        if row["dice_drop"]:
            p = "< 0.001" if float(row["p_holm"]) < 0.001 else f"{float(row['p_holm']):.2f}"
            drop = f"{float(row['dice_drop']):.3f}".replace("-", "−")
            assert f"{float(row['iou']):.3f} ± {float(row['iou_sd']):.3f} | {drop} | {p} |" in page


def seeds(*studies: str) -> tuple[list[str], str]:
    """Mean lesion Dice of `xbusnet`, policy first_pass, on fold 0 by seed, and its standard deviation over seeds."""
    scores = defaultdict(list)
    for row in (row for study in studies for row in rows("per_image.csv", study)):
        if (row["system"], row["fold"], row["policy"], row["attributes"]) == ("xbusnet", "0", "first_pass", "metadata"):
            scores[row["seed"]].append(float(row["dice"]))
    assert sorted(scores) == ["0", "1", "2"] and len({len(values) for values in scores.values()}) == 1
    means = [statistics.fmean(scores[seed]) for seed in sorted(scores)]
    return [f"{mean:.3f}" for mean in means], f"{statistics.stdev(means):.3f}"


def test_three_seeds_are_told_with_their_spread():
    reliability, results = (" ".join(text_of(page).split()) for page in ("docs/reliability.md", "docs/results.md"))
    (first, second, third), spread = seeds("blu-160", "blu-160-seeds")
    assert f"lesion Dice {first}, {second} and {third} on fold 0 of BLU" in reliability
    assert f"standard deviation {spread})" in reliability
    assert f"give {second} and {third}." in results and f"the standard deviation is {spread}" in results
    four = [float(dice) for dice in re.findall(r"^\| `[\w-]+` \| [^|]+ \| ([\d.]+) \|", text_of("docs/results.md"),
                                               re.MULTILINE)[:4]]
    assert four[0] - four[3] < float(spread)  # "more than the first four rows differ by"
    (first, second, third), spread = seeds("phantom-seeds")
    assert f"{first}, {second} and {third} on fold 0 of the simulated phantom" in reliability
    assert f"(12 images, profile `quick`; {spread})" in reliability
    told = [{key: run[key] for key in ("protocol", "dataset_fingerprint", "folds_checksum", "recipe", "iterations",
                                       "weights", "dirty")}
            for study in ("blu-160", "blu-160-seeds") for run in rows("runs.csv", study)
            if (run["system"], run["fold"]) == ("xbusnet", "0")]
    assert len(told) == 3 and told[0] == told[1] == told[2]  # commits differ, nothing else


def test_readme_and_documentation_lead_somewhere():
    """Every relative link and its heading; and the README can be read in a minute."""
    assert len(text_of("README.md").splitlines()) <= 150
    pages = [f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")]
    for page in ["README.md", "outputs/reference/README.md", *pages]:
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)):
            if re.match(r"https?:", target):
                continue
            file, _, heading = target.partition("#")
            place = ((REPOSITORY / page).parent / file) if file else REPOSITORY / page
            assert place.exists(), f"{page}: {target}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert heading in slugs, f"{page}: {target}"


def test_the_commits_that_are_named_are_there():
    """A shallow clone does not have them."""
    def git(*command):
        return subprocess.run(["git", *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("no history here")
    pages = ["README.md", "outputs/reference/README.md", *(f"docs/{path.name}" for path in DOCS.glob("*.md"))]
    named = {commit for page in pages for commit in re.findall(r"(?<![-\w])[0-9a-f]{8}\b", text_of(page))}
    named -= {commit for commit in named if commit.isdigit()}  # dates and numbers
    assert len(named) > 8 and [commit for commit in sorted(named) if git("cat-file", "-e", commit).returncode] == []


def test_every_kept_notebook_was_executed_to_its_end():
    for file in FOLDER.glob("*/notebooks/*.ipynb"):
        code = [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code), file
        assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"]), file


def test_nothing_names_a_folder_of_one_machine():
    """An absolute path with two folders or more; addresses, and paths in words such as prediction/mask, are none."""
    path = re.compile(r"""(?<![\w./:~<*}])/(?:[\w.-]+/)+[\w.-]+""")
    picture = re.compile(r"[\w+/=]{200,}")  # base64, which has slashes of its own
    found = [f"{file.relative_to(REPOSITORY)}: {hit[0]}" for file in (REPOSITORY / "outputs" / "reference").rglob("*.*")
             if file.suffix in (".ipynb", ".csv", ".md", ".json")
             for hit in path.finditer(picture.sub("", file.read_text(encoding="utf-8")))]
    assert not found, found[:5]


@pytest.mark.parametrize("study", ["blu-160", "blu-160-fold-0", "blu-160-repeat", "blu-160-seeds", "blu-160-transfer",
                                   "blu-160-transfer-400", "blu-160-strong", "blu-160-strong-200",
                                   "blu-160-strong-200-n100", "blu-160-strong-200-n50", "blu-160-busbra-300",
                                   "blu-160-busbra-600", "blu-160-busbra-600-n100", "blu-160-busbra-600-n50",
                                   "blu-160-busbra-300-alone", "blu-160-busbra-600-alone"])
def test_no_metadata_of_blu_is_kept(study):
    assert list(rows("cases.csv", study)[0]) == ["case_id", "width_px", "height_px", "long_side_px", "long_side_mm",
                                                 "lesion_fraction", "fold"]
    pictures = [*(FOLDER / study).rglob("*.png"), *(FOLDER / study).rglob("*.ipynb")]
    shown = ("blu-160", "blu-160-fold-0", "blu-160-transfer",
             "blu-160-strong")  # whose README gives BLU's authors and licence
    assert bool(pictures) == (study in shown)
    assert "CC BY 4.0" in text_of("outputs/reference/README.md")
