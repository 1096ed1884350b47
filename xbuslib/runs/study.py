"""A study as the analysis notebooks read it: every run there, all of one protocol, joined on their keys."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from xbuslib.data import catalogue, images
from xbuslib.data.cases import ATTRIBUTES, attributes_given
from xbuslib.errors import StudyError
from xbuslib.evaluation.metrics import PAPER, RELEASED
from xbuslib.files import outputs_root
from xbuslib.models import registry
from xbuslib.runs import caveats, identity, record


@dataclass(frozen=True)
class Study:
    """Finished runs of one study. No table may join `per_image` rows on anything but their keys."""

    name: str
    folder: Path  # outputs/<study>
    runs: pd.DataFrame  # one row per run: system, fold, seed, folder, …
    per_image: pd.DataFrame  # KEYS, paper_name, default, fold, seed, patient_id, case_id, both metric families
    cases: pd.DataFrame  # one row per validated case: case_id, fold, the case table, measures of frame and lesion
    records: list[dict]  # run.json of each run, in the order of `runs`
    facts: dict  # the first of them: dataset, config, versions
    missing: list[str]  # runs that belong to the study and are not there; empty unless opened with `partial`

    @property
    def systems(self) -> list[str]:
        """Registry names, in the registry's order."""
        return _in_order(set(self.runs["system"]))

    @property
    def adopted(self) -> dict[str, dict]:
        """{system: its `adopted` of run.json} of the predictions that were made elsewhere (adopted.py)."""
        return {run["system"]: run["adopted"] for run in self.records if run.get("adopted")}

    @property
    def seen_before(self) -> dict[str, str]:
        """{system: "BUS-BRA, 1244 images"}: what its weights had been trained on before, "none" for nothing.

        Empty if no run of the study started from another (runs/ancestors.py).
        """
        found = {system: caveats.starts([run for run in self.records if run["system"] == system])
                 for system in self.systems}
        return {system: "; ".join(texts) or "none" for system, texts in found.items()} if any(found.values()) else {}

    @property
    def ordered_runs(self) -> pd.DataFrame:
        """`runs`, systems in the registry's order, which tables made of them then keep."""
        return self.runs.sort_values("system", key=lambda names: names.map(self.systems.index), kind="stable")

    @cached_property
    def default(self) -> pd.DataFrame:
        """The per-image rows of each system's default scoring: `first_pass` where a prompt says size or location."""
        return self.per_image[self.per_image["default"]].reset_index(drop=True)

    @cached_property
    def prepared(self) -> images.Prepared:
        """The study's images and masks at `image_size`. Raises StudyError if they are gone."""
        path = self.folder / "prepared" / f"{self.facts['dataset']}_{self.facts['config']['image_size']}"
        if not path.is_dir():
            raise StudyError(f"{path} is gone; run the study again, which decodes the images anew")
        prepared = images.read(path)
        if prepared.fingerprint != self.facts["dataset_fingerprint"]:
            raise StudyError(f"{path} holds other images than the runs were made with; delete it and run the study "
                             "again")
        return prepared

    def case_table(self, data: str = "") -> pd.DataFrame:
        """The case table of the study's dataset with its files, normal images included.

        data: the dataset's folder; "" for its place in XBUS_DATA, or the embedded phantom, made again if it is gone.
        Raises StudyError if the files are not there, or are not those that the runs were made with.
        """
        config, dataset = self.facts["config"], self.facts["dataset"]
        try:
            root = catalogue.data_root(dataset, data, config["phantom_cases"])
            table = catalogue.load(dataset, root)
            same = identity.same_data(self.facts, images.fingerprints(table, config["image_size"]))
        except (OSError, StudyError) as error:
            raise StudyError(f"the files of study {self.name}'s dataset ({dataset}) are needed once more, for masks at "
                             f"original resolution and for normal images: {error}") from None
        if not same:
            raise StudyError(f"{root} holds other images, masks or metadata than study {self.name} was made with; "
                             "give the folder that it was made with (papermill: -p data DIR), or run the study again "
                             "on this one")
        return table

    def run_folder(self, system: str, fold: int, seed: int | None = None) -> Path:
        """The folder of one run, of the first seed unless one is given. Raises StudyError if it is not there."""
        rows = self.runs[(self.runs["system"] == system) & (self.runs["fold"] == fold)]
        rows = rows if seed is None else rows[rows["seed"] == seed]
        if rows.empty:
            raise StudyError(f"study {self.name} has no run of {system} on fold {fold}")
        return Path(rows.sort_values("seed")["folder"].iloc[0])

    def shared_folds(self, systems: Iterable[str]) -> list[int]:
        """The folds that all of `systems` have. Raises StudyError if there is none."""
        there = self.runs[self.runs["system"].isin(wanted := set(systems))].groupby("fold")["system"].nunique()
        if not (folds := [int(fold) for fold in there.index[there == len(wanted)]]):
            raise StudyError(f"study {self.name} has no fold that all of {', '.join(sorted(wanted))} have finished, so "
                             "no case can be shown for all of them; finish the study first")
        return folds

    @property
    def label(self) -> str:
        """What a caption says of the numbers: dataset, profile, training and encoders, folds, seeds."""
        return self._label(self.runs["seed"])

    @property
    def label_of_maps(self) -> str:
        """The same for what is shown of one run per system and fold, that of its first seed (`run_folder`)."""
        return self._label(self.runs.groupby(["system", "fold"])["seed"].min())

    def _label(self, seeds: pd.Series) -> str:
        config, folds = self.facts["config"], self.runs["fold"].nunique()
        return (f"{catalogue.label(self.facts['dataset'])}, profile {config['profile']}, "
                f"{config['image_size']} px, {caveats.short(self.records)}, {self.encoders}, "
                f"{folds} fold{'s' * (folds > 1)}, {named_seeds(seeds)}")

    @property
    def encoders(self) -> str:
        """ "CLIP random, ResNet-50 pretrained": the weights of every encoder that some system of the study uses."""
        records = itertools.chain(*(run["weights"] for run in self.records))
        return registry.encoder_label(list(records)) or "no pretrained encoder"

    @property
    def caveats(self) -> list[str]:
        """Plain sentences that must stand above any table of this study; none for the paper's own protocol."""
        dataset, sentences = self.facts["dataset"], []
        if catalogue.dataset(dataset).simulated:
            sentences.append("The images are a simulated phantom, not patients: these numbers say nothing about the "
                             "paper.")
        elif dataset != "blu":
            sentences.append(f"The dataset is {catalogue.label(dataset)}, not the paper's BLU.")
        sentences += caveats.caveats(self.records, self.encoders)
        if self.missing:
            sentences.append(f"This study is partial: {len(self.missing)} run(s) are missing ({self.missing[0]}"
                             + (", …)." if len(self.missing) > 1 else ")."))
        return sentences


def facts(study: Study) -> str:
    """The label of a study and its caveats, as Markdown: what must stand above any of its numbers."""
    return "\n".join([f"**{study.label}**", "", *(f"- {line}" for line in [*study.caveats, *_prompts(study)])])


def _prompts(study: Study) -> list[str]:
    """What the prompts of the default scorings hold; nothing where no system reads any."""
    rows, given = study.default.drop_duplicates("system"), attributes_given(study.cases)
    spatial, described = rows[rows["policy"] == "first_pass"], rows[rows["attributes"] == "metadata"]
    point = spatial["system"].isin([system for system in spatial["system"] if _reads_point(study, system)])
    contents = {"size and location from the system's own first pass": spatial[~point],
                "a location alone from the system's own first pass": spatial[point]}
    contents |= {f"{_listed(given)} from the metadata": described} if given else {}
    parts = [f"{words} ({', '.join(some['paper_name'])})" for words, some in contents.items() if len(some)]
    lacking = [f"no {name}" for name in ATTRIBUTES.values() if name not in given and len(described)]
    sentences = [f"The prompts hold {'; '.join(parts)}."] * bool(parts)
    sentences += [f"This dataset gives {_listed(lacking)}."] * bool(lacking)
    return [" ".join(sentences)] * bool(sentences)


def _reads_point(study: Study, system: str) -> bool:
    """Whether the system's prompt is a point, whose coordinates then stand beside its scores."""
    folder = Path(study.runs.loc[study.runs["system"] == system, "folder"].iloc[0])
    return "x" in pd.read_csv(folder / "per_image.csv", nrows=0)


def _listed(names: list[str]) -> str:
    """ "shape, margin and BI-RADS category" """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def system_names(rows: pd.DataFrame) -> dict[str, str]:
    """Registry name: paper's name of every system in `rows` (system, paper_name), in the registry's order."""
    named = rows.drop_duplicates("system").set_index("system")["paper_name"]
    return {name: named[name] for name in _in_order(named.index)}


def named_seeds(seeds: pd.Series) -> str:
    """ "seed 0", or "seeds 0, 1"."""
    numbers = sorted(seeds.unique())
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _in_order(systems: Iterable[str]) -> list[str]:
    """In the registry's order; systems that it has not got come last."""
    known = registry.names()
    return sorted(systems, key=lambda name: (known.index(name), "") if name in known else (len(known), name))


def open_study(name: str, systems: list[str] | None = None, partial: bool = False) -> Study:
    """The finished runs of study `name`, or of some of its systems.

    Raises StudyError with a list of what is missing (unless `partial`) or mixed: runs of another configuration,
    dataset or fold list never enter one table.
    """
    listed = record.scored(name)
    missing = _missing(name, listed, systems)
    if systems:
        listed = listed[listed["system"].isin(systems)].reset_index(drop=True)
    if listed.empty or (missing and not partial):
        raise StudyError(f"study {name!r} is not complete; {len(missing)} run(s) are missing:\n"
                         + "\n".join(f"  {run}" for run in missing[:30])
                         + "\nRun the study again with all of its systems, folds and seeds, or open what is there with "
                           "partial=True.")
    read = [record.read(Path(folder)) for folder in listed["folder"]]
    identity.refuse_mixture(f"study {name!r}", zip(map(Path, listed["folder"]), read, strict=True))
    parts, tables = [], []
    for row, run in zip(listed.itertuples(), read, strict=True):
        parts.append(_per_image(Path(row.folder), run))
        tables.append(_table(Path(row.folder) / "cases.csv").assign(fold=row.fold))
    cases = pd.concat(tables, ignore_index=True).drop_duplicates("case_id", ignore_index=True)
    per_image = pd.concat(parts, ignore_index=True)
    per_image["patient_id"] = per_image["case_id"].map(cases.set_index("case_id")["patient_id"])
    first = next((run for run in read if not run.get("adopted")), read[0])
    return Study(name, outputs_root() / name, listed, per_image, cases, read, first, missing)


def _missing(name: str, listed: pd.DataFrame, systems: list[str] | None) -> list[str]:
    """Runs that study.json names, or that would make the grid of what is there whole."""
    adopted = listed["weights"] == record.ADOPTED
    wanted = {key: set(listed.loc[~adopted, key]) for key in ("system", "fold", "seed")}
    settings = outputs_root() / name / "study.json"
    if settings.is_file():
        planned = json.loads(settings.read_text())
        if planned["folds"] != [record.ALL]:  # which is scored on nothing
            wanted = {key: wanted[key] | set(planned[f"{key}s"]) for key in wanted}
    if systems:
        wanted["system"] = set(systems) - set(listed.loc[adopted, "system"])
    there = set(zip(listed["system"], listed["fold"], listed["seed"], strict=True))
    grid = itertools.product(*(sorted(wanted[key]) for key in ("system", "fold", "seed")))
    lacking = [f"{system}, fold {fold}, seed {seed}" for system, fold, seed in grid
               if (system, fold, seed) not in there]
    for system, own in listed[adopted].groupby("system"):  # its seed is that of one trained run
        if not systems or system in systems:
            lacking += [f"{system}, fold {fold}: adopt its predictions too (xbuslib adopt)"
                        for fold in sorted(wanted["fold"] - set(own["fold"]))]
    return lacking


def _per_image(folder: Path, run: dict) -> pd.DataFrame:
    rows = _table(folder / "per_image.csv")
    policy, attributes = run["scorings"][0]
    keys = {"system": run["system"], "paper_name": run["paper_name"], "fold": run["fold"], "seed": run["seed"],
            "default": (rows["policy"] == policy) & (rows["attributes"] == attributes)}
    return rows[["case_id", "policy", "attributes", *PAPER, *RELEASED]].assign(**keys)


def _table(path: Path) -> pd.DataFrame:
    """A CSV in which "none" is a word and only an empty cell is missing."""
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"case_id": str, "patient_id": str,
                                                                              "birads": str})
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot read {path} ({error}); delete its folder and run the fold again") from None
