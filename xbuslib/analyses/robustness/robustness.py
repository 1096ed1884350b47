"""How much of a trained system's score is its prompt: validation prompts varied, nothing trained again.

Every fold's own run predicts the cases it validated, with the prompts of `variations`. Frozen image features are
computed once per fold, and no case is predicted twice under one prompt. Where a variation touches the attributes or
the wording, the first pass reads it too, as it would in use.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from xbuslib.analyses.robustness.variations import (
    NO_ATTRIBUTES,
    POLICY,
    UNVARIED,
    VARIATIONS,
    Variation,
    applicable,
    reworded,
)
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics, statistics
from xbuslib.inference.predict import images_of
from xbuslib.models import registry
from xbuslib.models.system import System
from xbuslib.progress import track
from xbuslib.prompts import words
from xbuslib.prompts.words import QUADRANTS, SIZES, Finding
from xbuslib.runs import record
from xbuslib.runs.study import Study, open_study
from xbuslib.runs.trained import Trained

FLIP = 0.05  # change of an image's Dice from which it counts as another decision: a twentieth of the scale, our choice
REPRODUCED = 0.005  # mean difference to the run's own Dice that other hardware may make; the same gives none
NOTHING = "nothing"  # a first pass without a pixel above τ
WHO = ["baseline", "group", "variation", "wrong"]


class Prediction(NamedTuple):
    """What a system made of one image under one prompt."""

    dice: float
    proposal: Finding  # size and location measured on its own map at τ: what a first pass proposes
    prompt: tuple  # as the system read it, for each view
    mask: np.ndarray  # (S, S) bool


class Evaluation(NamedTuple):
    """A system under every variation that can matter to it."""

    rows: pd.DataFrame  # one per baseline, variation, draw and case
    first_pass: pd.DataFrame  # one per case: size and quadrant, reference and first pass; empty if no prompt says them
    left_out: list[str]  # names of the variations that cannot matter to the system


def open_system(name: str, system: str, partial: bool = False) -> Study:
    """Study `name` with the runs of `system` alone, of each fold that of the first seed.

    Raises StudyError if the study has no run of it, or if it reads no prompts, naming those that do; and as
    open_study does.
    """
    registry.entry(system)
    listed = record.listing(name)
    if listed.empty:
        raise record.no_runs(name)
    records = {row.system: record.read(Path(row.folder)) for row in listed.drop_duplicates("system").itertuples()}
    prompted = [key for key in registry.names() if key in records and records[key]["scorings"] != [["none", "none"]]]
    choice = f"choose one that does with -p system NAME: {', '.join(prompted)}" if prompted else \
        "no system of this study reads any, so there is nothing to vary"
    if system not in records:
        raise StudyError(f"study {name!r} has no run of {system}, whose prompts were to be varied; {choice}")
    if system not in prompted:
        raise StudyError(f"{system} reads no prompts, so none can be varied; {choice}")
    study = open_study(name, [system], partial)
    first = study.runs["seed"] == study.runs.groupby("fold")["seed"].transform("min")
    runs = study.runs[first].reset_index(drop=True)
    return replace(study, runs=runs, per_image=study.per_image.merge(runs[["fold", "seed"]], on=["fold", "seed"]),
                   records=[record for record, kept in zip(study.records, first, strict=True) if kept])


class FoldRun:
    """The run that validated a fold (first seed), and its cases in the order of its scores, or one of them."""

    def __init__(self, trained: Trained, study: Study, case_id: str = ""):
        self.fold, self.predictor = trained.run["fold"], trained.predictor
        own = study.cases["case_id"] == case_id if case_id else study.cases["fold"] == self.fold
        cases = study.cases[own].reset_index(drop=True)
        self.cases = cases.astype(object).where(cases.notna(), None)  # a missing attribute is None, as in prompts
        rows = study.prepared.rows(cases["case_id"])
        self.masks = study.prepared.masks[rows]
        self.references = [words.from_reference(study.prepared, row) for row in rows]
        self.blank = [Finding(None, None, finding.frame) for finding in self.references]
        self.views, self.known = self.predictor.views(images_of(cases, study.prepared)), {}

    @property
    def baselines(self) -> tuple[str, ...]:
        """The policies from which changes are counted: all is known, and what can be deployed."""
        _, spatial = words.reads_size_and_location(self.predictor.system.prompts)
        return ("reference", "first_pass") if spatial else ("none",)

    def predict(self, policy: str, variation: Variation = UNVARIED, draw: int = 0) -> list[Prediction]:
        """A prediction per case under a baseline's `policy`, varied; `draw` counts the random draws of a variation."""
        policy, cases = variation.policy or policy, self.cases
        if variation.cases:
            cases = variation.cases(cases, np.random.default_rng([draw, self.fold]))
        proposals = self.blank
        if policy in ("first_pass", "paper"):
            proposals = [found.proposal for found in self._predict(cases, self.blank, variation, draw)]
        findings = [words.combine(policy, reference, proposal, proposal.frame)
                    for reference, proposal in zip(self.references, proposals, strict=True)]
        if variation.finding:
            findings = [variation.finding(finding, self.predictor.edges) for finding in findings]
        return self._predict(cases, findings, variation, draw)

    def _predict(self, cases: pd.DataFrame, findings: list[Finding], variation: Variation,
                 draw: int) -> list[Prediction]:
        """Only cases whose prompt is new are predicted."""
        config = self.predictor.plan.config
        tables = [reworded(table, variation, draw)
                  for table in self.predictor.prompt_tables(self.views, cases, findings)]
        read = words.columns_read(self.predictor.system.prompts)
        prompts = list(zip(*(table[read].itertuples(index=False, name=None) for table in tables), strict=True))
        new = [key for key in enumerate(prompts) if key not in self.known]
        if new:
            positions = [i for i, _ in new]
            maps = self.predictor.mean_maps(self.views, tables, positions)
            scores = metrics.per_image(maps >= config.threshold, self.masks[positions])["dice"]
            for (i, prompt), found, dice in zip(new, maps, scores, strict=True):
                proposal = words.from_first_pass(found, findings[i].frame, config.first_pass_threshold)
                self.known[i, prompt] = Prediction(float(dice), proposal, prompt, found >= config.threshold)
        return [self.known[key] for key in enumerate(prompts)]


def evaluate(study: Study, system: str) -> Evaluation:
    """`system` under its baselines and every variation that can matter, each fold by its own run (first seed).

    Columns of the rows: WHO, policy, attributes ("metadata" or "none": what a baseline's prompt holds), draw, fold,
    case_id, size (class of the reference by the fold's edges), prompt (as read), prompt_changed, dice, dice_baseline,
    change. Every baseline is there as the variation UNVARIED.
    """
    parts, found, read = [], [], ()
    folds = sorted(study.runs["fold"].unique())
    for fold in track(folds, "prompt variations", len(folds)):
        run = FoldRun(Trained.load(study.run_folder(system, fold)), study)
        read = run.predictor.system.prompts
        parts += [_varied(run, baseline) for baseline in run.baselines]
        if run.baselines != ("none",):
            found.append(_first_pass(run))
    rows = pd.concat(parts, ignore_index=True)
    return Evaluation(rows, pd.concat(found, ignore_index=True) if found else pd.DataFrame(),
                      [variation.name for variation in applicable(read)[1]])


def _varied(run: FoldRun, baseline: str) -> pd.DataFrame:
    """The rows of one fold and baseline."""
    system = run.predictor.system
    varied = [v for v in applicable(system.prompts)[0] if not (v.group == POLICY and v.policy == baseline)]
    before = run.predict(baseline)
    known = {"fold": run.fold, "case_id": run.cases["case_id"], "patient_id": run.cases["patient_id"],
             "size": [words.size_word(finding.box, run.predictor.edges) for finding in run.references]}
    parts = []
    for variation in [UNVARIED, *varied]:
        for draw in range(variation.draws):
            after = run.predict(baseline, variation, draw)
            parts.append(pd.DataFrame({
                "baseline": baseline, "group": variation.group, "variation": variation.name, "wrong": variation.wrong,
                "policy": variation.policy or baseline, "attributes": _attributes(system, variation), "draw": draw,
                **known, "prompt": [" | ".join(map(str, one.prompt[0])) for one in after],
                "prompt_changed": [a.prompt != b.prompt for a, b in zip(after, before, strict=True)],
                "dice": [one.dice for one in after], "dice_baseline": [one.dice for one in before]}))
    return pd.concat(parts).assign(change=lambda rows: rows["dice"] - rows["dice_baseline"])


def _attributes(system: System, variation: Variation) -> str:
    """As per_image.csv calls what the prompts hold of shape, margin and BI-RADS."""
    return "metadata" if "local_text" in system.prompts and variation.cases is not NO_ATTRIBUTES else "none"


def reproduced(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """The run's own scorings as computed here beside its per_image.csv, a row per scoring: policy, attributes, n,
    dice, dice_run, largest_difference of an image.

    Raises StudyError if they differ by more than other hardware explains.
    """
    scored = [v.name for v in VARIATIONS if v.group == POLICY or v.cases is NO_ATTRIBUTES]  # by study.score too
    plain = rows[rows["variation"].isin([UNVARIED.name, *scored])]
    keys = ["policy", "attributes", "fold", "case_id"]
    first = study.per_image["seed"] == study.per_image.groupby("fold")["seed"].transform("min")
    both = plain.drop_duplicates(keys).merge(study.per_image.loc[first, [*keys, "dice"]], on=keys,
                                             suffixes=("", "_run"), validate="1:1")
    both["difference"] = (both["dice"] - both["dice_run"]).abs()
    baselines = rows[rows["variation"] == UNVARIED.name].merge(both[keys], on=keys)
    if len(baselines) < (rows["variation"] == UNVARIED.name).sum() or both["difference"].mean() > REPRODUCED:
        raise StudyError(f"the weights of study {study.name} do not give the scores of its per_image.csv (mean "
                         f"difference {both['difference'].mean():.3f} over {len(both)} scores); run its folds again")
    return both.groupby(["policy", "attributes"], sort=False).agg(
        n=("dice", "size"), dice=("dice", "mean"), dice_run=("dice_run", "mean"),
        largest_difference=("difference", "max")).reset_index()


def summary(rows: pd.DataFrame, by: tuple[str, ...] = ()) -> pd.DataFrame:
    """A row per baseline and variation (and value of each column in `by`): WHO, n images, prompt_changed (share whose
    prompt differs), dice, change with its bootstrap 95 % interval low … high, and the shares worse and better of
    images whose Dice falls or rises by more than FLIP.

    Draws are averaged per image first. A mean over fewer than two images has no interval.
    """
    keys, varied = [*WHO, *by], rows[rows["variation"] != UNVARIED.name]
    varied = varied.assign(worse=varied["change"] < -FLIP, better=varied["change"] > FLIP)
    images = varied.groupby([*keys, "fold", "patient_id", "case_id"], sort=False)[
        ["prompt_changed", "dice", "change", "worse", "better"]].mean().reset_index()
    table = []
    for values, some in images.groupby(keys, sort=False):
        low, high = statistics.interval(some["change"], some["patient_id"]) if len(some) > 1 else (np.nan, np.nan)
        means = some[["prompt_changed", "dice", "change", "worse", "better"]].mean()
        table.append(dict(zip(keys, values, strict=True)) | {"n": len(some)} | means.to_dict()
                     | {"low": low, "high": high})
    columns = [*keys, "n", "prompt_changed", "dice", "change", "low", "high", "worse", "better"]
    order = {name: place for place, name in enumerate(v.name for v in VARIATIONS)}
    return pd.DataFrame(table, columns=columns).sort_values(
        ["baseline", "variation", *by], ignore_index=True,
        key=lambda c: c.map({"variation": order, "size": {s: i for i, s in enumerate(SIZES)}}.get(
            c.name, {"reference": 0, "first_pass": 1, "none": 2})))


def decisions(rows: pd.DataFrame) -> pd.DataFrame:
    """What all wrong prompts together do, a row per baseline: n images, share of (image, wrong prompt) pairs with a
    change beyond FLIP (`pairs`, the draws of a variation averaged), share of images that at least one wrong prompt
    moves by that much (`any`) with its 95 % interval (statistics.share_interval), and the mean `change`.
    """
    wrong = rows[rows["wrong"]].assign(flips=lambda r: r["change"].abs() > FLIP)
    table = []
    for baseline, some in wrong.groupby("baseline", sort=False):
        pairs = some.groupby(["fold", "case_id", "variation"])[["flips", "change"]].mean()
        images = some.groupby(["fold", "patient_id", "case_id"])["flips"].any()
        low, high = statistics.share_interval(images, images.index.get_level_values("patient_id"))
        table.append({"baseline": baseline, "wrong_prompts": some["variation"].nunique(), "n": len(images),
                      "change": pairs["change"].mean(), "pairs": pairs["flips"].mean(), "any": images.mean(),
                      "low": low, "high": high})
    return pd.DataFrame(table, columns=["baseline", "wrong_prompts", "n", "change", "pairs", "any", "low", "high"])


def _first_pass(run: FoldRun) -> pd.DataFrame:
    edges, proposals = run.predictor.edges, [one.proposal for one in run.predict("none")]  # its prompt is blank
    return pd.DataFrame([{
        "fold": run.fold, "case_id": case.case_id, "patient_id": case.patient_id,
        "size": words.size_word(reference.box, edges), "size_found": words.size_word(proposal.box, edges) or NOTHING,
        "quadrant": words.quadrant(reference.centre, reference.frame),
        "quadrant_found": words.quadrant(proposal.centre, proposal.frame) or NOTHING,
    } for case, reference, proposal in zip(run.cases.itertuples(), run.references, proposals, strict=True)])


def confusion(found: pd.DataFrame, what: str = "size") -> pd.DataFrame:
    """Counts: a row per class of the reference ("size" or "quadrant"), a column per class that the first pass found
    and one for NOTHING."""
    classes = list(SIZES if what == "size" else QUADRANTS)
    return pd.crosstab(found[what], found[f"{what}_found"]).reindex(
        index=classes, columns=[*classes, NOTHING], fill_value=0)


def hits(found: pd.DataFrame) -> pd.DataFrame:
    """Shares with 95 % intervals (statistics.share_interval): what, hits, n, share, low, high, constant.

    A case without a proposal is no hit. `constant`: the share that always naming the reference's most frequent class
    would hit, the least that a first pass has to beat; nan in the rows by size.
    """
    rows, everyone = [], np.full(len(found), True)
    for what, name in (("quadrant", "quadrant right"), ("size", "size class right")):
        right = found[what] == found[f"{what}_found"]
        constant = found[what].value_counts(normalize=True).max()
        rows.append((name, right, everyone, constant))
        rows += [(f"{name}, {size} lesions", right, found["size"] == size, np.nan)
                 for size in SIZES if what == "quadrant"]
    rows.append(("nothing above τ", found["size_found"] == NOTHING, everyone, np.nan))
    return pd.DataFrame([(what, int(right[of].sum()), int(of.sum()), right[of].mean(),
                          *statistics.share_interval(right[of], found.loc[of, "patient_id"]), least)
                         for what, right, of, least in rows],
                        columns=["what", "hits", "n", "share", "low", "high", "constant"])
