"""One fold from dataset to scored run folder: what notebook 04 and `xbuslib fold` both run."""

import sys
import time
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from xbuslib.config import Config
from xbuslib.data import images
from xbuslib.errors import machine_faults
from xbuslib.evaluation import metrics
from xbuslib.files import lock
from xbuslib.inference.predict import Predictor, at_native_size, chunks, encode, images_of
from xbuslib.models import precision, registry, weights
from xbuslib.models.system import count
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import MixedPrompts, TextTable, TrainingPrompts, picture_embeddings
from xbuslib.runs import ancestors, caveats, environment, identity, record
from xbuslib.runs.source import Source
from xbuslib.runs.trained import frozen_checksum
from xbuslib.training import loop, recipes


class Start(NamedTuple):
    """One fold before its first iteration."""

    run: dict  # what run.json says before training
    predictor: Predictor  # the system as it starts, with its plan
    train_cases: pd.DataFrame
    val_cases: pd.DataFrame
    seen: pd.DataFrame  # pictures that the weights will have been trained on (runs/ancestors.py)


def begin(system: str, fold: int | str, config: Config, source: Source, *, study: str, seed: int = 0,
          start_from: str | Path = "") -> Start:
    """Build `system` for one fold, its weights drawn from `seed`, loaded, or taken from the run `start_from`.

    Without iterations it stays what it started from, with the size classes that it was trained with. Raises StudyError
    for an unknown system or fold, weights that are not found, or an ancestor that does not fit or has seen a
    validation image.
    """
    train_cases, val_cases = source.split(fold)
    plan = recipes.plan(system, config, len(train_cases))
    recipes.require_training(plan, start_from)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)  # weights that are not loaded are drawn at random
    model = registry.build(system, config)
    if config.weights == "partial":
        weights.require_something_found(model.weights_record)
    train, frozen = count(model)
    ancestor = ancestors.find(Path(start_from), system, seed) if start_from else None
    edges = (words.size_edges(source.prepared.long_sides[source.prepared.rows(train_cases["case_id"])])
             if plan.iterations else record.read(ancestor)["size_edges_px"])
    run = source.identity() | {
        "system": system, "paper_name": registry.entry(system).paper, "study": study, "fold": fold, "seed": seed,
        "protocol": identity.PROTOCOL, "config": config.model_dump(), "plan": plan.record(),
        "switches": registry.entry(system).switches, "train_cases": len(train_cases), "val_cases": len(val_cases),
        "val_divided": source.divided(train_cases, val_cases) if plan.iterations else 0,
        "size_edges_px": edges, "scorings": words.scorings(model.prompts), "trainable": train, "frozen": frozen,
        "weights": model.weights_record, "frozen_checksum": frozen_checksum(model),
        "precision": precision.name(plan.amp, device),
    }
    seen = source.pictures(train_cases if plan.iterations else train_cases.iloc[:0])[ancestors.COLUMNS]
    if ancestor:
        ancestors.guard(ancestor, source.pictures(val_cases))
        run["ancestors"] = ancestors.load(ancestor, model, run)
        seen = pd.concat([ancestors.seen(ancestor), seen], ignore_index=True)
    run["identity"] = identity.digest(run)
    return Start(run, Predictor(model, plan, edges, TextTable(model, device)), train_cases, val_cases, seen)


def run_fold(system: str, fold: int | str, config: Config, source: Source, *, study: str, seed: int = 0,
             start_from: str | Path = "") -> Path:
    """Train `system` on one fold, score it under every policy, and return its run folder.

    Fold "all" is trained on every lesion and scored on none. `start_from`: a run folder, or the folder of a study
    trained with --folds all, whose weights it starts from (runs/ancestors.py).
    Returns at once if the very run is there; goes on from its checkpoint if it was killed.
    """
    with machine_faults(f"{system}, fold {fold}, seed {seed} stopped"):
        return _run_fold(system, fold, config, source, study, seed, start_from)


def _run_fold(system: str, fold: int | str, config: Config, source: Source, study: str, seed: int,
              start_from: str | Path) -> Path:
    path = record.folder(study, system, fold, seed)
    began = time.monotonic()
    code = environment.software()  # that of this process: the working copy may change while it trains
    start = begin(system, fold, config, source, study=study, seed=seed, start_from=start_from)
    if record.finished(path, start.run):
        return path
    with lock(path, f"another process trains {system}, fold {fold}, seed {seed} of study {study}; waiting for it"):
        if not record.finished(path, start.run):  # as it may be by now
            _train(path, start, source, began, code)
    return path


def _train(path: Path, start: Start, source: Source, began: float, code: dict) -> None:
    """Train, score and write the run; began: time.monotonic() before `begin`, code: the software then."""
    run, predictor, train_cases, val_cases, seen = start
    if run.get("ancestors"):
        _say(f"{run['system']} starts from a run that has seen {caveats.starts([run])[0]}")
    elif run["weights"] and run["config"]["weights"] != "random":
        _say(f"{run['system']} starts from {weights.coverage(run['weights'])}")
    partial = record.partial_folder(path, run)
    predictor.system.to(predictor.device)
    data = training_data(predictor, train_cases, source.prepared)
    clock = {"encode": time.monotonic() - began}
    history = loop.fit(predictor.system, data, predictor.plan, run["seed"], predictor.device, partial / "checkpoint.pt")
    clock["train"], trained = history.attrs["seconds"], time.monotonic()
    per_image, default_maps = (score(predictor, val_cases, source.prepared) if len(val_cases) else
                               no_scores(predictor.plan.config))
    clock["total"] = clock["encode"] + clock["train"] + time.monotonic() - trained

    run |= {"seconds": {key: round(value, 2) for key, value in clock.items()},
            "peak_memory_gb": round(environment.peak_memory_gb(), 3)} | environment.facts() | code
    validated = images.case_table(val_cases, source.prepared)
    record.write(path, partial, run, history, per_image, validated, default_maps, seen, predictor.system)


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def score(predictor: Predictor, cases: pd.DataFrame, prepared: images.Prepared) -> tuple[pd.DataFrame, np.ndarray]:
    """Per-image metrics of `cases` under every policy that makes sense for the system (words.scorings), and the
    (n, S, S) probability maps of the default one."""
    reads = predictor.system.prompts
    parts, default_maps = {scoring: [] for scoring in words.scorings(reads)}, []
    for some in chunks(cases):
        views, masks = predictor.views(images_of(some, prepared)), prepared.masks[prepared.rows(some["case_id"])]
        for place, ((policy, attributes), rows) in enumerate(parts.items()):
            maps, prompts = predictor.predict(views, some, prepared, policy, attributes)
            default_maps += [] if place else [maps]
            values = metrics.per_image(maps >= predictor.plan.config.threshold, masks)
            values.insert(0, "case_id", some["case_id"].to_numpy())
            values.insert(1, "policy", policy)
            values.insert(2, "attributes", attributes)
            rows.append(values.assign(**{column: prompts[column].to_numpy() for column in words.columns_read(reads)}))
    return pd.concat(chain.from_iterable(parts.values()), ignore_index=True), np.concatenate(default_maps)


def no_scores(config: Config) -> tuple[pd.DataFrame, np.ndarray]:
    """What `score` gives for no case at all."""
    return (pd.DataFrame(columns=["case_id", "policy", "attributes", *metrics.PAPER, *metrics.RELEASED]),
            np.empty((0, config.image_size, config.image_size), np.float32))


def training_data(predictor: Predictor, cases: pd.DataFrame, prepared: images.Prepared) -> loop.TrainingData:
    """A training fold on the device, with its prompts, and what frozen encoders make of its images."""
    model, plan, device, rows = predictor.system, predictor.plan, predictor.device, prepared.rows(cases["case_id"])
    pictures = at_native_size(images_of(cases, prepared), plan).to(device)
    masks = at_native_size(torch.from_numpy(prepared.masks[rows])[:, None], plan).to(device)  # (n, 1, S, S)
    prompts = TrainingPrompts(model, cases, prepared, rows, predictor.edges, plan, predictor.texts)
    if plan.mix_visual:
        prompts = MixedPrompts(prompts, model, prompts.local_texts, picture_embeddings(model, pictures, masks, plan))
    features = None if plan.augmentation else encode(model, pictures, plan, device)
    frames = torch.from_numpy(prepared.original_sizes[rows]).to(device)
    return loop.TrainingData(pictures, masks, features, prompts, frames, tuple(cases["case_id"]),
                             predictor.texts.embeddings)
