"""Finished runs that predict: as they did when they were scored, on any image."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from xbuslib.config import Config
from xbuslib.data.cases import lesions
from xbuslib.data.folds import subset
from xbuslib.data.images import Prepared
from xbuslib.errors import StudyError
from xbuslib.inference.predict import Predictor, chunks, images_of
from xbuslib.models import registry
from xbuslib.models.system import System
from xbuslib.models.weights import checksum
from xbuslib.progress import remark, track
from xbuslib.prompts.conditioning import TextTable
from xbuslib.runs import identity, record
from xbuslib.runs.study import Study
from xbuslib.training import recipes


@dataclass(frozen=True)
class Trained:
    """A finished run, ready to predict."""

    folder: Path
    run: dict  # run.json
    predictor: Predictor

    @classmethod
    def load(cls, folder: Path) -> "Trained":
        """The run of a folder, on the GPU if there is one.

        Random frozen encoders are drawn again from the run's seed. Raises StudyError if the weights do not fit or
        the frozen encoders are not those of the run.
        """
        run = record.read(folder)
        record.refuse_adopted(folder, run)
        if run.get("protocol") != identity.PROTOCOL:
            raise StudyError(f"{folder} was made under protocol {run.get('protocol')} of the library, which is now at "
                             f"{identity.PROTOCOL} and may predict otherwise; use the library of commit "
                             f"{(run['commit'] or 'unknown')[:8]}, or run the fold again")
        torch.manual_seed(run["seed"])
        system = registry.build(run["system"], Config(**run["config"]), run["weights"])
        if frozen_checksum(system) != run["frozen_checksum"]:
            raise StudyError(f"{folder}: the frozen encoders differ from those the run was trained with; "
                             "set XBUS_WEIGHTS to the same weights folder")
        file, wanted = folder / "weights.safetensors", system.trainable_state()
        try:
            state = load_file(file)
        except Exception as error:
            raise StudyError(f"cannot read {file}: {error}; run the fold again") from None
        if state.keys() != wanted.keys() or any(state[key].shape != wanted[key].shape for key in state):
            raise StudyError(f"{file} does not fit {run['system']}; run the fold again")
        system.load_state_dict(state, strict=False)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # channels_last as in training: the layout decides how sums are rounded
        system.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
        return cls(folder, run, Predictor(system, recipes.of_run(run), tuple(run["size_edges_px"]),
                                          TextTable(system, device)))

    def predict(self, cases: pd.DataFrame, prepared: Prepared, policy: str, attributes: str) -> np.ndarray:
        """(n, S, S) float16 probabilities of any `cases` under one prompt policy, rounded as those of run folders.

        Size classes are those of the run's training fold; policies that read reference masks need them of `cases`.
        """
        config = self.predictor.plan.config
        if cases.empty:
            return np.empty((0, config.image_size, config.image_size), np.float16)
        # texts are embedded anew: beside other texts of a batch, an embedding may differ in its last digit
        predictor = replace(self.predictor, texts=TextTable(self.predictor.system, self.predictor.device))
        with redirect_stdout(io.StringIO()):  # one line of progress per run is enough
            maps = [predictor.predict(predictor.views(images_of(some, prepared)), some, prepared, policy, attributes)[0]
                    for some in chunks(cases)]
        return record.halved(np.concatenate(maps), config.threshold)


def frozen_checksum(system: System) -> str | None:
    """SHA-256 over the frozen encoders; None if there are none."""
    return "+".join(checksum(getattr(system, name))[:16] for name in system.frozen) or None


class NewPredictions(NamedTuple):
    """What one run predicts on images that its folder holds no prediction of."""

    system: str
    paper_name: str
    fold: int
    seed: int
    training_ids: list[str]
    training: np.ndarray  # (n, S, S) float16, under the system's default scoring
    normal_ids: list[str]
    normals: np.ndarray  # (m, S, S) float16, without attributes


def every_run(study: Study, table: pd.DataFrame, training: bool = True) -> Iterator[NewPredictions]:
    """Each run of the study, one after the other, on its training images (if `training`) and on the normal images.

    table: `Study.case_table`. A normal image has no lesion that an expert could describe, so its prompt has no
    attributes: BLU's "BI-RADS 1" would be the answer. Raises StudyError if a run's training images are not the
    dataset's lesions without those that the run validated.
    """
    normals = table[table["pathology"] == "normal"].reset_index(drop=True)
    runs = study.ordered_runs[~study.ordered_runs["system"].isin(study.adopted)]
    if study.adopted:
        remark(f"{', '.join(study.adopted)}: adopted predictions, left out where training or normal images are "
               "predicted anew, as there are no weights")
    for row in track(runs.itertuples(), "predicting again", len(runs)):
        trained = Trained.load(Path(row.folder))
        run, validated = trained.run, record.probabilities(trained.folder).keys()
        learnt = subset(lesions(table[~table["case_id"].isin(validated)]), run["config"].get("train_images"))
        if len(learnt) != run["train_cases"]:
            raise StudyError(f"{row.folder} was trained on {run['train_cases']} images, but {len(learnt)} lesions of "
                             "the dataset were not validated by it; run the fold again")
        learnt = learnt if training else learnt.iloc[:0]
        policy, attributes = run["scorings"][0]
        yield NewPredictions(run["system"], run["paper_name"], run["fold"], run["seed"],
                             list(learnt["case_id"]), trained.predict(learnt, study.prepared, policy, attributes),
                             list(normals["case_id"]), trained.predict(normals, study.prepared, policy, "none"))
