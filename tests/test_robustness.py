"""Varied prompts on hand-made tables; an unvaried baseline is the run's own score; shares and counts by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xbuslib.analyses.robustness import figures, robustness, variations
from xbuslib.display import style
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics, statistics
from xbuslib.inference.predict import images_of, probability_maps
from xbuslib.models.system import Prompts
from xbuslib.prompts import words
from xbuslib.prompts.words import Finding
from xbuslib.runs.trained import Trained
from xbuslib.workflow.notebooks import prompted

EDGES = (110.0, 250.0)
NAMED = {variation.name: variation for variation in variations.VARIATIONS}
CASES = pd.DataFrame({
    "case_id": ["a", "b", "c", "d"], "pathology": ["benign", "malignant", "benign", "malignant"],
    "shape": ["oval", "irregular", None, "round"],
    "margin": ["circumscribed", "not circumscribed - angular&indistinct", "circumscribed", None],
    "birads": ["2", "5", "4a", "4c"]}, dtype=object)  # as a case table holds missing words


def rng(seed=0):
    return np.random.default_rng(seed)


def triples(cases):
    return [tuple(row) for row in cases[list(variations.ATTRIBUTES)].itertuples(index=False)]


# ---- the variations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 7, 40])
def test_a_derangement_moves_everyone(n):
    for seed in range(50):
        order = variations.derangement(n, rng(seed))
        assert sorted(order) == list(range(n)) and not (order == np.arange(n)).any()
    drawn = {tuple(variations.derangement(3, rng(seed))) for seed in range(50)}
    assert drawn == {(1, 2, 0), (2, 0, 1)}  # all there are
    with pytest.raises(StudyError, match="two at least"):
        variations.derangement(1, rng())


def test_shuffled_attributes_are_those_of_another_case_as_a_whole():
    for seed in range(20):
        mixed = variations.shuffled(CASES, rng(seed))
        assert None in mixed["margin"].tolist()  # still missing
        assert sorted(map(str, triples(mixed))) == sorted(map(str, triples(CASES)))
        assert all(new != old for new, old in zip(triples(mixed), triples(CASES), strict=True))  # all four differ
        assert mixed["case_id"].tolist() == list("abcd") and mixed["pathology"].equals(CASES["pathology"])


def test_attributes_left_out():
    assert triples(NAMED["no margin"].cases(CASES, rng()))[:2] == [("oval", None, "2"), ("irregular", None, "5")]
    assert triples(NAMED["no attributes"].cases(CASES, rng())) == [(None, None, None)] * 4
    assert triples(CASES)[0] == ("oval", "circumscribed", "2")  # the cases themselves stay


def test_contradiction_by_hand():
    assert triples(variations.contradictory(CASES)) == [
        ("irregular", "not circumscribed - spiculated", "5"), ("oval", "circumscribed", "3"),
        (None, "not circumscribed - spiculated", "5"), ("oval", None, "3")]  # what is missing stays missing
    text = words.local_text(*triples(variations.contradictory(CASES))[0])
    assert text == "irregular shape, spiculated margin, BI-RADS 5"


def test_birads_is_one_category_off_and_stays_in_the_list():
    up, down = NAMED["BI-RADS one up"].cases, NAMED["BI-RADS one down"].cases
    assert up(CASES, rng())["birads"].tolist() == ["3", "4c", "4b", "5"]
    assert down(CASES, rng())["birads"].tolist() == ["3", "4c", "3", "4b"]
    whole = CASES.assign(birads=pd.Series(["2", "3", "4", "5"], dtype=object))  # BUS-BRA: no sub-categories
    assert up(whole, rng())["birads"].tolist() == ["3", "4", "5", "4"]
    assert down(whole, rng())["birads"].tolist() == ["3", "2", "3", "4"]
    odd = CASES.assign(birads=pd.Series(["0", None, "4", "4a"], dtype=object))
    assert up(odd, rng())["birads"].tolist() == ["0", None, "5", "4b"]
    for scale in (variations.SUBCATEGORIES, variations.CATEGORIES):
        for value in scale:
            for step in (1, -1):
                other = variations.other_birads(value, scale, step)
                assert abs(scale.index(other) - scale.index(value)) == 1


def test_wrong_sizes_in_words_and_in_numbers():
    findings = [Finding((side, side / 2), (10, 10), (400, 400)) for side in (60.0, 110.0, 180.0, 300.0)]

    def sizes(name):
        return [words.size_word(NAMED[name].finding(finding, EDGES).box, EDGES) for finding in findings]

    assert [words.size_word(finding.box, EDGES) for finding in findings] == ["small", "small", "medium", "large"]
    assert sizes("size one up") == ["medium", "medium", "large", "medium"]
    assert sizes("size one down") == ["medium", "medium", "small", "medium"]
    assert sizes("size opposite") == ["large", "large", "medium", "small"]
    assert NAMED["size one up"].finding(findings[0], EDGES).box == (180, 90)  # middle class, aspect kept
    assert NAMED["size opposite"].finding(findings[0], EDGES).box == (375, 187.5)
    assert NAMED["size opposite"].finding(findings[2], EDGES) == findings[2]
    unknown = Finding(None, None, (400, 400))
    assert all(variation.finding(unknown, EDGES) == unknown for variation in NAMED.values() if variation.finding)


def test_wrong_quadrants():
    finding = Finding((60, 30), (99, 19), (400, 300), (0.25, 0.1))

    def changed(name):
        other = NAMED[name].finding(finding, EDGES)
        return words.quadrant(other.centre, other.frame), other.inside, other.centre, other.box

    assert words.quadrant(finding.centre, finding.frame) == "upper left"
    assert changed("left for right") == ("upper right", (0.75, 0.1), (300, 19), (60, 30))
    assert changed("upper for lower") == ("lower left", (0.25, 0.9), (99, 280), (60, 30))
    assert changed("opposite quadrant") == ("lower right", (0.75, 0.9), (300, 280), (60, 30))
    nowhere = Finding((60, 30), None, (400, 300))
    assert NAMED["opposite quadrant"].finding(nowhere, EDGES) == nowhere


def test_synonyms_by_hand_and_for_the_whole_vocabulary():
    assert variations.synonyms("irregular shape, spiculated and indistinct margin, BI-RADS 4c") == \
        "uneven form, spiky and blurred border, breast imaging category 4c"
    assert variations.synonyms("oval shape, not circumscribed margin") == "egg-shaped form, poorly defined border"
    assert variations.synonyms("a small lesion in the upper left quadrant of the image") == \
        "a little mass in the top left quarter of the picture"
    assert variations.synonyms("an oval-shaped thing") == "an oval-shaped thing"  # a part of a word is no word
    from xbuslib.data.cases import MARGINS, SHAPES
    for word in (*SHAPES, *MARGINS, *words.SIZES, "upper", "lower"):
        assert variations.synonyms(word) != word
    assert len(set(map(variations.synonyms, (*SHAPES, *MARGINS, *words.SIZES)))) == 12  # meanings stay apart


@pytest.mark.parametrize("text", [
    "irregular shape, spiculated, angular and indistinct margin, BI-RADS 4c", "oval shape, BI-RADS 5", "a lesion",
    "a large lesion in the upper right quadrant of the image",
    "Ultrasound shows a tumor approximately 120×80 pixels near (12, 140)."])
def test_typos_change_every_word_by_one_letter(text):
    for seed in range(40):
        wrong = variations.typos(text, rng(seed))
        assert variations.typos(text, rng(seed)) == wrong
        for old, new in zip(text.split(" "), wrong.split(" "), strict=True):  # as many words
            if any(sign.isdigit() for sign in old) or sum(map(str.isalpha, old)) < 2:
                assert new == old
                continue
            dropped = {old[:i] + old[i + 1:] for i in range(len(old)) if old[i].isalpha()}
            swapped = {old[:i] + old[i + 1] + old[i] + old[i + 2:] for i in range(len(old) - 1)
                       if old[i].isalpha() and old[i + 1].isalpha()}
            assert new != old and new in dropped | swapped
    assert len({variations.typos(text, rng(seed)) for seed in range(40)}) > 2


def test_wording_changes_its_column_alone_and_each_case_for_itself():
    table = pd.DataFrame({"case_id": ["a", "b"], "global_text": ["a small lesion"] * 2,
                          "local_text": ["irregular shape, spiculated margin"] * 2})
    found = variations.reworded(table, NAMED["typos in attributes"], 0)
    assert found["global_text"].equals(table["global_text"]) and found["local_text"].nunique() == 2
    alone = variations.reworded(table.iloc[[1]], NAMED["typos in attributes"], 0)  # whoever else is in the fold
    assert alone["local_text"].tolist() == found["local_text"].tolist()[1:]
    assert not variations.reworded(table, NAMED["typos in attributes"], 1).equals(found)
    assert variations.reworded(table, variations.UNVARIED, 0).equals(table)


def test_what_cannot_matter_is_left_out():
    can, cannot = variations.applicable(("global_text", "local_text"))
    assert cannot == [] and can == list(variations.VARIATIONS)
    assert {v.group for v in variations.applicable(("point",))[0]} == {variations.POLICY, variations.SPATIAL}
    assert [v.name for v in variations.applicable(("point",))[0] if v.wrong] == \
        ["left for right", "upper for lower", "opposite quadrant"]  # a point has no size
    local = [v.name for v in variations.applicable(("local_text",))[0]]
    assert "no BI-RADS" in local and "size opposite" not in local and "nothing given" not in local
    assert variations.applicable(())[0] == []


# ---- a run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(smoke_study):
    """Three systems of the smoke study: both texts, the local one, a point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(smoke_study.folder.parent))
        names = ("xbusnet", "xbusnet-no-gfe", "bussam")
        studies = {name: robustness.open_system(smoke_study.name, name) for name in names}
    return {name: (study, robustness.evaluate(study, name)) for name, study in studies.items()}


def test_of_several_seeds_the_first_is_varied_and_named(evaluated, monkeypatch):
    own, _ = evaluated["bussam"]
    monkeypatch.setenv("XBUS_OUTPUTS", str(own.folder.parent))
    seeds = replace(own, runs=pd.concat([own.runs, own.runs.assign(seed=1)], ignore_index=True),
                    per_image=pd.concat([own.per_image, own.per_image.assign(seed=1)]), records=own.records * 2)
    monkeypatch.setattr(robustness, "open_study", lambda *_: seeds)
    opened = robustness.open_system(own.name, "bussam")
    assert set(opened.runs["seed"]) == set(opened.per_image["seed"]) == {0} and opened.records == own.records
    assert opened.label == own.label and len(opened.default) == len(own.default)


@pytest.mark.parametrize("name", ["xbusnet", "xbusnet-no-gfe", "bussam"])
def test_unvaried_prompts_give_the_runs_own_scores(name, evaluated):
    study, found = evaluated[name]
    table = robustness.reproduced(found.rows, study)
    scorings = study.per_image[["policy", "attributes"]].drop_duplicates()
    assert set(map(tuple, table[["policy", "attributes"]].to_numpy())) == set(map(tuple, scorings.to_numpy()))
    assert (table["n"] == len(study.cases)).all() and table["largest_difference"].max() < 1e-6
    own = study.default.set_index("case_id")["dice"]
    rows = found.rows[(found.rows["variation"] == "as it is") & (found.rows["baseline"] == study.default["policy"][0])]
    assert rows.set_index("case_id")["dice"].to_dict() == pytest.approx(own.to_dict(), abs=1e-6)
    assert found.rows["size"].value_counts().sum() == len(found.rows) and not found.rows["change"].isna().any()


def test_other_scores_than_the_runs_own_are_refused(evaluated):
    study, found = evaluated["bussam"]
    other = found.rows.assign(dice=found.rows["dice"] + 0.02)
    with pytest.raises(StudyError, match="do not give the scores of its per_image.csv"):
        robustness.reproduced(other, study)


def test_what_varies_for_each_system(evaluated):
    full, local, point = (evaluated[name][1] for name in ("xbusnet", "xbusnet-no-gfe", "bussam"))
    assert full.left_out == [] and set(full.rows["baseline"]) == {"reference", "first_pass"}
    assert set(local.rows["baseline"]) == {"none"} and local.first_pass.empty and "policy paper" in local.left_out
    assert "shuffled" in point.left_out and len(point.first_pass) == len(evaluated["bussam"][0].cases)
    draws = full.rows.groupby(["baseline", "variation"])["draw"].nunique()
    assert draws["reference", "shuffled"] == variations.DRAWS and draws["reference", "size opposite"] == 1
    same = full.rows[~full.rows["prompt_changed"]]
    assert (same["change"] == 0).all() and full.rows["change"].abs().max() > 0
    moved = full.rows[full.rows["variation"].isin(["left for right", "size one up", "BI-RADS one up"])
                      & (full.rows["baseline"] == "reference")]
    assert moved["prompt_changed"].all()


def test_varied_prompts_against_the_plain_way(evaluated):
    """Other words, and another point, given to inference itself."""
    for name, variation in (("xbusnet-no-gfe", "contradictory"), ("bussam", "left for right")):
        study, found = evaluated[name]
        run = robustness.FoldRun(Trained.load(study.run_folder(name, 0)), study)
        own, cases = run.predictor, variations.contradictory(run.cases)
        if name == "bussam":
            points = torch.tensor([[1 - f.inside[0], f.inside[1]] for f in run.references], device=own.device)
            prompts = Prompts(point=points.float())
        else:
            texts = [words.local_text(case.shape, case.margin, case.birads) for case in cases.itertuples()]
            prompts = Prompts(local_text=own.texts(texts))
        view, = run.views
        maps = probability_maps(own.system, view.images, view.features, prompts, own.plan, own.device)
        dice = metrics.per_image(maps >= 0.5, run.masks)["dice"]
        rows = found.rows[(found.rows["variation"] == variation) & (found.rows["fold"] == 0)
                          & found.rows["baseline"].isin(["reference", "none"])]
        assert rows["dice"].to_numpy() == pytest.approx(dice.to_numpy(), abs=1e-6)


def test_mirrored_views_and_first_pass_as_inference_does_them(evaluated):
    """Under flip averaging (recipe strong) each view has its own prompt."""
    study, _ = evaluated["xbusnet"]
    trained = Trained.load(study.run_folder("xbusnet", 1))
    own = replace(trained.predictor, plan=replace(trained.predictor.plan, flip_average=True))
    run = robustness.FoldRun(replace(trained, predictor=own), study)
    assert len(run.views) == 2
    views = own.views(images_of(run.cases, study.prepared))
    for policy in ("first_pass", "paper", "reference"):
        maps, _ = own.predict(views, run.cases, study.prepared, policy, "metadata")
        dice = metrics.per_image(maps >= 0.5, run.masks)["dice"]
        assert [one.dice for one in run.predict(policy)] == pytest.approx(dice.tolist(), abs=1e-6)


@pytest.mark.parametrize("name,words", [
    ("unet", ["unet reads no prompts", "bussam, xbusnet"]), ("cliptnseg", ["has no run of cliptnseg", "xbusnet"]),
    ("xbusnet9", ["unknown system 'xbusnet9'"])])
def test_systems_without_prompts_or_runs_are_refused(name, words, smoke_study, monkeypatch):
    monkeypatch.setenv("XBUS_OUTPUTS", str(smoke_study.folder.parent))
    with pytest.raises(StudyError) as refused:
        robustness.open_system(smoke_study.name, name)
    assert all(word in str(refused.value) for word in words)
    with pytest.raises(StudyError, match="no finished run"):
        robustness.open_system("another-study", "xbusnet")


# ---- numbers by hand ------------------------------------------------------------------------------------------


def rows_by_hand():
    """Two images (small, large) under one baseline: a wrong prompt with two draws, and an attribute left out."""
    rows = []
    for variation, wrong, draw, changes in (("as it is", False, 0, (0, 0)), ("no shape", False, 0, (0.01, 0.0)),
                                            ("shuffled", True, 0, (-0.10, 0.0)), ("shuffled", True, 1, (0.02, 0.08)),
                                            ("size opposite", True, 0, (-0.04, -0.01))):
        for case, size, start, change in zip("ab", ("small", "large"), (0.6, 0.8), changes, strict=True):
            rows.append({"baseline": "reference", "group": "g", "variation": variation, "wrong": wrong, "draw": draw,
                         "fold": 0, "case_id": case, "patient_id": case, "size": size, "prompt_changed": change != 0,
                         "dice_baseline": start, "dice": start + change, "change": change})
    return pd.DataFrame(rows)


def test_summary_by_hand():
    table = robustness.summary(rows_by_hand()).set_index("variation")
    assert table.index.tolist() == ["no shape", "shuffled", "size opposite"]
    row = table.loc["shuffled"]
    assert row["n"] == 2 and row["change"] == pytest.approx((-0.04 + 0.04) / 2)
    assert row["dice"] == pytest.approx((0.56 + 0.84) / 2) and row["prompt_changed"] == 0.75
    assert (row["worse"], row["better"]) == (0.25, 0.25)  # one of two draws of one of two images, each
    assert (row["low"], row["high"]) == pytest.approx((-0.04, 0.04))  # two images: their extremes
    by_size = robustness.summary(rows_by_hand(), ("size",)).set_index(["variation", "size"])
    assert by_size.index.tolist()[2:4] == [("shuffled", "small"), ("shuffled", "large")]
    assert by_size.loc[("shuffled", "small"), "change"] == pytest.approx(-0.04)
    assert by_size["n"].eq(1).all() and by_size[["low", "high"]].isna().all(axis=None)


def test_decisions_by_hand():
    row = robustness.decisions(rows_by_hand()).iloc[0]
    assert row["wrong_prompts"] == 2 and row["n"] == 2
    assert row["pairs"] == pytest.approx((0.5 + 0.5 + 0 + 0) / 4)  # draws first
    assert row["any"] == 1 and row["change"] == pytest.approx((-0.04 + 0.04 - 0.04 - 0.01) / 4)


def test_wilson_is_its_formula():
    z = 1.959963984540054
    for hits, n in ((0, 5), (3, 7), (12, 12)):
        p, middle = hits / n, (hits + z * z / 2) / (n + z * z)
        half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        found = statistics.share_interval(np.arange(n) < hits, np.arange(n))
        assert found == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-12)
    assert np.isnan(statistics.share_interval([], [])).all()


FOUND = pd.DataFrame({
    "fold": 0, "case_id": list("abcdef"), "patient_id": list("abcdef"),
    "size": ["small", "small", "large", "large", "large", "small"],
    "size_found": ["small", "medium", "large", "large", "nothing", "small"],
    "quadrant": ["upper left", "upper left", "lower right", "upper left", "upper right", "upper left"],
    "quadrant_found": ["upper left", "upper right", "lower right", "upper left", "nothing", "upper left"]})


def test_confusion_by_hand():
    table = robustness.confusion(FOUND)
    assert table.columns.tolist() == ["small", "medium", "large", "nothing"]
    assert table.to_numpy().tolist() == [[2, 1, 0, 0], [0, 0, 0, 0], [0, 0, 2, 1]]
    places = robustness.confusion(FOUND, "quadrant")
    assert places.loc["upper left"].tolist() == [3, 1, 0, 0, 0] and places.to_numpy().sum() == 6


def test_hits_by_hand():
    table = robustness.hits(FOUND).set_index("what")
    assert table.loc["quadrant right", ["hits", "n"]].tolist() == [4, 6]
    assert table.loc["quadrant right", "constant"] == pytest.approx(4 / 6)
    assert table.loc["quadrant right, large lesions", ["hits", "n"]].tolist() == [2, 3]
    assert table.loc["quadrant right, medium lesions", "n"] == 0
    assert np.isnan(table.loc["quadrant right, medium lesions", "share"])
    assert table.loc["size class right", "hits"] == 4 and table.loc["nothing above τ", "share"] == pytest.approx(1 / 6)
    low, high = statistics.share_interval([True] * 4 + [False] * 2, list("abcdef"))
    assert table.loc["quadrant right", ["low", "high"]].tolist() == [low, high]


def test_figures_name_what_they_show(evaluated):
    for name in ("xbusnet", "xbusnet-no-gfe"):
        rows = evaluated[name][1].rows
        table, by_size = robustness.summary(rows), robustness.summary(rows, ("size",))
        for figure in (figures.changes(table, "simulated phantom"),
                       figures.flips(table, "simulated phantom"),
                       figures.changes_by_size(by_size, "simulated phantom")):
            assert len(figure.axes) == table["baseline"].nunique()
            assert set(table["variation"]) <= {tick.get_text() for tick in figure.axes[0].get_yticklabels()}
            assert "simulated phantom" in style.footer(figure)
    figure = figures.first_pass(FOUND, robustness.hits(FOUND), "simulated phantom")
    assert [text.get_text() for text in figure.axes[0].texts] == [str(n) for n in (2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1)]


def drawn_at(axis, y):
    """The name of the row nearest to a height."""
    rows = {tick: label.get_text() for tick, label in zip(axis.get_yticks(), axis.get_yticklabels(), strict=True)}
    return rows[min(rows, key=lambda tick: abs(tick - y))]


def marks(axis):
    """{(row, marker): value} of the single marks of an axis."""
    return {(drawn_at(axis, line.get_ydata()[0]), line.get_marker()): line.get_xdata()[0] for line in axis.lines
            if line.get_marker() != "None"}


def intervals(axis):
    """The (low, high) of each row, from top to bottom."""
    return [tuple(line.get_xdata()) for line in axis.lines
            if line.get_marker() == "None" and np.ptp(line.get_ydata()) == 0 and line.get_linewidth() > 1]


def test_figures_draw_the_changes_by_hand():
    table = robustness.summary(rows_by_hand()).assign(worse=[0.1, 0.25, 0.5], better=[0, 0.125, 0.25])
    axis, = figures.changes(table, "").axes
    means = {("no shape", "o"): 0.005, ("shuffled", "o"): 0, ("size opposite", "o"): -0.025}
    assert marks(axis) == pytest.approx(means)
    assert intervals(axis) == [pytest.approx(ends) for ends in [(0, 0.01), (-0.04, 0.04), (-0.04, -0.01)]]
    shares = {drawn_at(axis, text.xy[1]): text.get_text() for text in axis.texts if text.get_text().endswith("%")}
    assert shares == {"no shape": "10%", "shuffled": "38%", "size opposite": "75%"}
    axis, = figures.flips(table, "").axes
    bars = [(drawn_at(axis, bar.get_y() + bar.get_height() / 2), bar.get_width()) for bar in axis.patches]
    names = ["no shape", "shuffled", "size opposite"]
    assert bars == [*zip(names, [-10, -25, -50], strict=True), *zip(names, [0, 12.5, 25], strict=True)]
    by_size = robustness.summary(rows_by_hand(), ("size",)).assign(low=lambda t: t["change"] - 0.01,
                                                                   high=lambda t: t["change"] + 0.02)
    axis, = figures.changes_by_size(by_size, "").axes
    assert marks(axis) == pytest.approx({
        ("no shape", "o"): 0.01, ("no shape", "D"): 0, ("shuffled", "o"): -0.04, ("shuffled", "D"): 0.04,
        ("size opposite", "o"): -0.04, ("size opposite", "D"): -0.01})  # o: small lesions, D: large ones
    assert intervals(axis) == [pytest.approx((change - 0.01, change + 0.02)) for change in marks(axis).values()]


@pytest.mark.parametrize("systems,chosen", [
    (["unet", "bussam", "xbusnet"], "xbusnet"), (["unet", "cliptnseg", "bussam"], "cliptnseg"), (["unet", "ukan"], "")])
def test_a_study_varies_a_system_that_reads_prompts(systems, chosen):
    """Without any, the workflow leaves this notebook out (notebooks.analyses)."""
    assert prompted(systems) == chosen
