"""One fold from dataset to scored run folder: what notebook 04 and `xbuslib fold` both run."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from xbuslib.config import Config, digest
from xbuslib.data import catalogue, folds, images
from xbuslib.data.cases import lesions
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics
from xbuslib.files import lock, outputs_root
from xbuslib.inference.predict import at_native_size, encode, predict_policy, views
from xbuslib.models import precision, registry
from xbuslib.models.system import System, count
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import MixedPrompts, TextTable, TrainingPrompts, picture_embeddings
from xbuslib.runs import environment, record
from xbuslib.runs.trained import frozen_checksum
from xbuslib.training import loop, recipes


@dataclass(frozen=True)
class Source:
    """A dataset made ready: all cases, those with a lesion, their images and their validation folds."""

    dataset: str
    root: Path
    all_cases: pd.DataFrame
    cases: pd.DataFrame  # with a lesion; normals are negative controls
    prepared: images.Prepared
    fold_of: pd.Series  # case_id: validation fold

    def identity(self) -> dict[str, str]:
        """What run.json says of the data: equal identities, equal images, masks and folds."""
        return {"dataset": self.dataset, "dataset_fingerprint": self.prepared.fingerprint,
                "folds_checksum": folds.checksum(self.fold_of)}

    def split(self, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(training cases, validation cases) of one fold."""
        inside = self.cases["case_id"].map(self.fold_of) == fold
        if not inside.any():
            raise StudyError(f"there is no fold {fold}; the folds are 0 … {self.fold_of.max()}")
        return self.cases[~inside].reset_index(drop=True), self.cases[inside].reset_index(drop=True)


def open_source(dataset: str, data: str | Path | None, fold_lists: str | Path | None, config: Config,
                study: str) -> Source:
    """Load, check and decode a dataset; decoded images are kept in outputs/<study>/prepared."""
    root = catalogue.data_root(dataset, data, config.phantom_cases)
    table = catalogue.load(dataset, root)
    path = outputs_root() / study / "prepared" / f"{dataset}_{config.image_size}.npz"
    with lock(path):
        prepared = images.prepare(table, config.image_size, path)
    cases = lesions(table)
    fold_of = folds.read(Path(fold_lists), cases) if fold_lists else folds.split(cases, config.folds, config.folds_seed)
    return Source(dataset, root, table, cases, prepared, fold_of)


def run_fold(system: str, fold: int, config: Config, source: Source, *, study: str, seed: int = 0) -> Path:
    """Train `system` on one fold, score it under every policy, and return its run folder.

    Returns at once if the very run is there; goes on from its checkpoint if it was killed.
    """
    path = record.folder(study, system, fold, seed)
    inputs = source.identity()
    if record.finished(path, config, inputs):
        return path
    started, clock = time.monotonic(), {}
    train_cases, val_cases = source.split(fold)
    plan = recipes.plan(system, config, len(train_cases))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)  # weights that are not loaded are drawn at random
    model = registry.build(system, config)
    partial = record.partial_folder(path, config, inputs)
    model.to(device)
    texts = TextTable(model, device)
    rows = source.prepared.rows(train_cases["case_id"])
    edges = words.size_edges(source.prepared.long_sides[rows])

    data = _training_data(model, train_cases, source.prepared, rows, edges, plan, texts, device)
    clock["encode"] = time.monotonic() - started
    history = loop.fit(model, data, plan, seed, device, partial / "checkpoint.pt")
    clock["train"] = time.monotonic() - started - clock["encode"]
    per_image, default_maps = score(model, val_cases, source.prepared, edges, plan, texts, device)
    clock["total"] = time.monotonic() - started

    trainable, frozen = count(model)
    run = inputs | {
        "system": system, "paper_name": registry.REGISTRY[system].paper, "study": study, "fold": fold, "seed": seed,
        "config_digest": digest(config), "config": config.model_dump(), "plan": plan.record(),
        "train_cases": len(train_cases), "val_cases": len(val_cases), "size_edges_px": edges,
        "scorings": words.scorings(model.prompts), "trainable": trainable, "frozen": frozen,
        "weights": model.weights_record, "frozen_checksum": frozen_checksum(model),
        "precision": precision.name(plan.amp, device),
        "seconds": {key: round(value, 2) for key, value in clock.items()},
        "peak_memory_gb": round(environment.peak_memory_gb(), 3),
    } | environment.facts()
    validated = images.case_table(val_cases, source.prepared)
    record.write(path, partial, run, history, per_image, validated, default_maps, model)
    return path


def score(model: System, cases: pd.DataFrame, prepared: images.Prepared, edges: tuple[float, float],
          plan: recipes.Plan, texts: TextTable, device: torch.device) -> tuple[pd.DataFrame, np.ndarray]:
    """Per-image metrics of `cases` under every policy that makes sense for the system (words.scorings), and the
    (n, S, S) probability maps of the default one."""
    rows = prepared.rows(cases["case_id"])
    pictures = torch.from_numpy(prepared.images[rows])[:, None]  # (n, 1, S, S)
    seen = views(model, pictures, plan, device)
    parts, default_maps = [], None
    for policy, attributes in words.scorings(model.prompts):
        maps, said = predict_policy(model, cases, prepared, policy, attributes, edges, seen, texts, plan,
                                              device)
        default_maps = maps if default_maps is None else default_maps
        values = metrics.per_image(maps >= plan.config.threshold, prepared.masks[rows])
        values.insert(0, "case_id", cases["case_id"].to_numpy())
        values.insert(1, "policy", policy)
        values.insert(2, "attributes", attributes)
        parts.append(values.assign(**_said(said, model.prompts)))
    return pd.concat(parts, ignore_index=True), default_maps


def _training_data(model, cases, prepared, rows, edges, plan, texts, device) -> loop.TrainingData:
    pictures = at_native_size(torch.from_numpy(prepared.images[rows])[:, None], plan).to(device)
    masks = at_native_size(torch.from_numpy(prepared.masks[rows])[:, None], plan).to(device)  # (n, 1, S, S)
    said = TrainingPrompts(model, cases, prepared, rows, edges, plan, texts)
    for field in {"global_text", "local_text"} & set(model.prompts):
        model.fit_texts(field, said.vocabulary(field))
    if plan.mix_visual:
        local_texts = [words.local_text(case.shape, case.margin, case.birads) for case in cases.itertuples()]
        said = MixedPrompts(said, model, local_texts, picture_embeddings(model, pictures, masks, plan))
    features = None if plan.augmentation else encode(model, pictures, plan, device)
    frames = torch.from_numpy(prepared.original_sizes[rows]).to(device)
    return loop.TrainingData(pictures, masks, features, said, frames)


def _said(table: pd.DataFrame, fields: tuple[str, ...]) -> dict:
    """The prompts as the system was given them, for per_image.csv."""
    columns = {"global_text": ["global_text"], "local_text": ["local_text"], "point": ["x", "y"]}
    return {column: table[column].to_numpy() for field in fields for column in columns[field]}
