"""A dataset made ready for a study: its case table, its decoded images and its folds."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xbuslib.config import Config, resolve
from xbuslib.data import catalogue, folds, images, repeats
from xbuslib.data.cases import lesions
from xbuslib.errors import StudyError
from xbuslib.files import lock, outputs_root, write_whole
from xbuslib.progress import remark
from xbuslib.runs import record


@dataclass(frozen=True)
class Source:
    """A dataset made ready: all cases, those with a lesion, their images and their validation folds."""

    dataset: str
    root: Path
    all_cases: pd.DataFrame
    cases: pd.DataFrame  # with a lesion; normals are negative controls
    prepared: images.Prepared
    fold_of: pd.Series  # case_id: validation fold
    groups: pd.Series  # of each of `cases`: whom it should share a fold with (repeats.groups)
    pictures_file: Path  # where the hashes of the lesions' images are kept
    train_images: int | None = None  # so many of a fold's training images are used; None: all

    def pictures(self, cases: pd.DataFrame) -> pd.DataFrame:
        """Hashes of the images of some lesions (repeats.pictures) with their dataset; those of all are kept."""
        table = _hashes(self.cases, self.pictures_file, self.prepared.fingerprint)
        table["dataset"] = self.cases["dataset"].to_numpy() if "dataset" in self.cases else self.dataset
        return table.set_index("case_id").loc[list(cases["case_id"])].reset_index()

    def identity(self) -> dict[str, str]:
        """What run.json says of the data: equal identities, equal images, masks, metadata and folds."""
        return {"dataset": self.dataset, "dataset_fingerprint": self.prepared.fingerprint,
                "metadata_fingerprint": images.metadata_fingerprint(self.all_cases),
                "folds_checksum": folds.checksum(self.fold_of)}

    def split(self, fold: int | str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(training cases, validation cases) of one fold; every lesion and none of fold "all".

        Raises StudyError for a fold that is not there, or if it has fewer than `train_images`.
        """
        inside = pd.Series(False, index=self.cases.index)
        if fold != record.ALL and not (inside := self.cases["case_id"].map(self.fold_of) == fold).any():
            raise StudyError(f"there is no fold {fold}; the folds are 0 … {self.fold_of.max()}")
        train, validation = (self.cases[rows].reset_index(drop=True) for rows in (~inside, inside))
        return folds.subset(train, self.train_images), validation

    def divided(self, train: pd.DataFrame, validation: pd.DataFrame) -> int:
        """How many validation images show a patient, or a picture, of the training images too."""
        group = self.groups.set_axis(self.cases["case_id"])
        return int(group[validation["case_id"]].isin(group[train["case_id"]]).sum())


def open_source(dataset: str, data: str | Path | None, fold_lists: str | Path | None, config: Config,
                study: str) -> Source:
    """Load, check and decode a dataset; decoded images are kept in outputs/<study>/prepared.

    Raises StudyError, before anything is decoded, if the runs of the study were made with other images.
    """
    root = catalogue.data_root(dataset, data, config.phantom_cases)
    table = catalogue.load(dataset, root)
    path = outputs_root() / study / "prepared" / f"{dataset}_{config.image_size}"
    fingerprint = images.source_fingerprint(table, config.image_size)
    _refuse_other_images(study, dataset, config, fingerprint, root)
    with lock(path):
        prepared = images.prepare(table, config.image_size, path, fingerprint)
    cases = lesions(table)
    kept = path.with_name(f"{dataset}_pictures.csv")
    pairs = repeats.within(_hashes(cases, kept, prepared.fingerprint))
    return Source(dataset, root, table, cases, prepared, _folds(cases, fold_lists, config, pairs),
                  repeats.groups(cases, pairs), kept, config.train_images)


def prepare(given: dict, done: Path | None) -> str:
    """Open a source by the parameters of notebook 04 and say what is ready; `done`: file that says it to the workflow.
    """
    config = resolve(given["profile"], given["overrides"])
    where = given["study"] or "{dataset}-{profile}".format(**given)
    source = open_source(given["dataset"], given["data"], given["fold_lists"], config, where)
    if done:
        with write_whole(done) as partial:
            partial.write_text(json.dumps({"dataset": source.dataset, "fingerprint": source.prepared.fingerprint}))
    return (f"{len(source.cases)} lesions and {len(source.all_cases) - len(source.cases)} normals of "
            f"{source.dataset} are ready at {config.image_size} pixels")


def _refuse_other_images(study: str, dataset: str, config: Config, fingerprint: str, root: Path) -> None:
    """Raise StudyError if decoding the images in `root` would replace those of the study's finished runs."""
    runs = (record.read(file.parent) for file in record.files_of_runs(study))
    first = next((run for run in runs if run["dataset"] == dataset
                  and run["config"]["image_size"] == config.image_size), None)
    if first and first["dataset_fingerprint"] != fingerprint:
        raise StudyError(f"{root} holds other images or masks than the runs of study {study} were made with; give the "
                         "folder that they were made with (--data), or give this study another name with --study")


def _hashes(cases: pd.DataFrame, kept: Path, fingerprint: str) -> pd.DataFrame:
    """repeats.pictures, made by one process and kept for the others."""
    with lock(kept):
        return repeats.pictures(cases, kept, fingerprint)


def _folds(cases: pd.DataFrame, fold_lists: str | Path | None, config: Config, pairs: pd.DataFrame) -> pd.Series:
    """Validation folds, made or read; what repeated pictures mean for them is reported."""
    if config.fold_by == "dataset":
        return _by_dataset(cases, fold_lists, pairs)
    if not fold_lists:
        if len(pairs):
            remark(f"{len(pairs)} pair(s) of images are equal or look alike; each pair shares a fold "
                   "(xbuslib data check names them)")
        return folds.split(cases, config.folds, config.folds_seed, repeats.groups(cases, pairs))
    fold_of = folds.read(Path(fold_lists), cases)
    _report_apart(str(fold_lists), fold_of, pairs)
    each = cases["case_id"].map(fold_of).groupby(cases["patient_id"]).nunique()
    if (each > 1).any():
        remark(f"{fold_lists}: the images of {(each > 1).sum()} patient(s) are in several folds (first: "
               f"{each.index[each > 1][0]}); their scores are too good")
    return fold_of


def _by_dataset(cases: pd.DataFrame, fold_lists: str | Path | None, pairs: pd.DataFrame) -> pd.Series:
    """A fold for each of several datasets, in the order of their names in `--dataset`."""
    if fold_lists or "dataset" not in cases:
        raise StudyError("fold_by=dataset leaves one of several datasets out: give two or more, such as "
                         "--dataset busbra+busi, and no fold lists")
    fold_of = pd.Series(pd.factorize(cases["dataset"])[0], index=cases["case_id"], name="fold")
    _report_apart("fold_by=dataset", fold_of, pairs)
    return fold_of


def _report_apart(who: str, fold_of: pd.Series, pairs: pd.DataFrame) -> None:
    if len(apart := folds.across(fold_of, pairs)):
        first = apart.iloc[0]
        remark(f"{who}: {len(apart)} pair(s) of images that are equal or look alike are in different folds "
               f"(first: {first['one']} and {first['other']}); their scores are too good")
