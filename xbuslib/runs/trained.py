"""Trained systems on images that their run folders hold no prediction of: a fold's training images, and normal ones."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from xbuslib.config import Config
from xbuslib.data.cases import lesions
from xbuslib.data.images import Prepared
from xbuslib.errors import StudyError
from xbuslib.inference.predict import predict_policy, views
from xbuslib.models import registry
from xbuslib.models.encoders import checksum
from xbuslib.models.system import System
from xbuslib.progress import track
from xbuslib.prompts.conditioning import TextTable
from xbuslib.runs import record
from xbuslib.runs.study import Study
from xbuslib.training import recipes


def load_system(path: Path) -> tuple[System, dict]:
    """The trained system of a run folder, ready to predict as the run did, and its run.json.

    Random frozen encoders are drawn again from the run's seed. Raises StudyError if the weights do not fit or
    the frozen encoders are not those of the run.
    """
    run = record.read(path)
    torch.manual_seed(run["seed"])
    system = registry.build(run["system"], Config(**run["config"]))
    if frozen_checksum(system) != run["frozen_checksum"]:
        raise StudyError(f"{path}: the frozen encoders differ from those the run was trained with; "
                         "set XBUS_WEIGHTS to the same weights folder")
    try:
        state = load_file(path / "weights.safetensors")
    except Exception as error:
        raise StudyError(f"cannot read {path / 'weights.safetensors'}: {error}; run the fold again") from None
    wanted = system.trainable_state()
    if state.keys() != wanted.keys() or any(state[key].shape != wanted[key].shape for key in state):
        raise StudyError(f"{path / 'weights.safetensors'} does not fit {run['system']}; run the fold again")
    system.load_state_dict(state, strict=False)
    return system.to(memory_format=torch.channels_last).eval(), run  # the layout decides how sums are rounded


def frozen_checksum(system: System) -> str | None:
    """SHA-256 over the frozen encoders; None if there are none."""
    return "+".join(checksum(getattr(system, name))[:16] for name in system.frozen) or None


class Again(NamedTuple):
    """New predictions of one run; maps are rounded as those of run folders are."""

    system: str
    paper_name: str
    fold: int
    seed: int
    training_ids: list[str]
    training: np.ndarray  # (n, S, S) float16, under the system's default scoring
    normal_ids: list[str]
    normals: np.ndarray  # (m, S, S) float16, without attributes


def in_order(study: Study) -> pd.DataFrame:
    """The study's runs, systems in the registry's order, which tables made of them then keep."""
    return study.runs.sort_values("system", key=lambda names: names.map(study.systems.index), kind="stable")


def every_run(study: Study, table: pd.DataFrame) -> Iterator[Again]:
    """Each run of the study, one after the other, on its training images and on the dataset's normal images.

    table: `Study.case_table`. A normal image has no lesion that an expert could describe, so its prompt has no
    attributes: BLU's "BI-RADS 1" would be the answer. Raises StudyError if a run's training images are not the
    dataset's lesions without those that the run validated.
    """
    normals = table[table["pathology"] == "normal"].reset_index(drop=True)
    for row in track(in_order(study).itertuples(), "predicting again", len(study.runs)):
        system, run = load_system(Path(row.folder))
        validated = record.probabilities(Path(row.folder)).keys()
        training = lesions(table[~table["case_id"].isin(validated)])
        if len(training) != run["train_cases"]:
            raise StudyError(f"{row.folder} was trained on {run['train_cases']} images, but {len(training)} lesions of "
                             "the dataset were not validated by it; run the fold again")
        policy, attributes = run["scorings"][0]
        yield Again(run["system"], run["paper_name"], run["fold"], run["seed"],
                    list(training["case_id"]), predict(system, run, training, study.prepared, policy, attributes),
                    list(normals["case_id"]), predict(system, run, normals, study.prepared, policy, "none"))


def predict(system: System, run: dict, cases: pd.DataFrame, prepared: Prepared, policy: str,
            attributes: str) -> np.ndarray:
    """(n, S, S) float16 probabilities of any `cases` under one prompt policy, as `runs.load_system` gave the system.

    Size classes are those of the run's training fold; policies that read reference masks need them of `cases`.
    """
    config = Config(**run["config"])
    if cases.empty:
        return np.empty((0, config.image_size, config.image_size), np.float16)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    system.to(device)
    plan = recipes.plan(run["system"], config, run["train_cases"])
    pictures = torch.from_numpy(prepared.images[prepared.rows(cases["case_id"])])[:, None]  # (n, 1, S, S)
    with redirect_stdout(io.StringIO()):  # one line of progress per run is enough
        seen = views(system, pictures, plan, device)
        maps, _ = predict_policy(system, cases, prepared, policy, attributes, tuple(run["size_edges_px"]),
                                           seen, TextTable(system, device), plan, device)
    return record.halved(maps, config.threshold)
