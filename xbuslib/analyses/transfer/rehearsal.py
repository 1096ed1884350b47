"""The steps on the simulated phantom: scanner B's patients stand in for other hospitals.

A rehearsal: two systems on two folds, each training as long as the study's own, or half as long where it starts from
trained weights. Every training is a study of its own beside the phantom's, kept, and not repeated.
"""

from xbuslib.analyses.transfer.steps import BY_DEFAULT
from xbuslib.config import Config
from xbuslib.errors import StudyError
from xbuslib.files import outputs_root
from xbuslib.runs import identity
from xbuslib.runs.fold import run_fold
from xbuslib.runs.record import ALL
from xbuslib.runs.source import open_source
from xbuslib.runs.study import Study, open_study

OTHER = "phantom_b"  # other patients on another machine
FOLDS = 2  # enough to show the tables; intervals are over images


def studies(name: str, steps: str, curve: str, data: str = "") -> tuple[list[str], list[str]]:
    """Names of the steps, in order, and of the further studies of the learning curve of notebook 15.

    As given, by commas, the study `name` first unless it is among them; without any, for a study of the phantom, those
    trained here; none for another.
    """
    given, further = ([part.strip() for part in text.split(",") if part.strip()] for text in (steps, curve))
    if given or further or not (outputs_root() / name / "runs").is_dir():
        return [*([] if name in given else [name]), *given], further
    study = open_study(name, partial=True)
    if not _possible(study, data):
        return [name], []
    return [name, *train_steps(study, data)], train_curve(study, data)


def _possible(study: Study, data: str) -> bool:
    """Whether the study is of the phantom, was trained, and has images and folds as they are made here."""
    if study.facts["dataset"] != "phantom" or not _systems(study) or not study.facts["plan"]["iterations"]:
        return False
    made = open_source("phantom", data, None, Config(**study.facts["config"]), f"{study.name}-strong").identity()
    return identity.same_data(study.facts, made)


def train_steps(study: Study, data: str = "") -> list[str]:
    """Train what is not there yet; names of the studies scanner B alone, strong, and strong from scanner B.

    In this order the last difference is what the other hospitals' images add to the same recipe.

    data: the phantom's folder, if the study was not made on the embedded one.
    """
    systems, folds = _systems(study), _folds(study)
    elsewhere = _train(study, "elsewhere", systems, [ALL], dataset=OTHER)
    return [_train(study, "scanner-b", systems, folds, data, start=elsewhere, iterations=0),
            _train(study, "strong", systems, folds, data),
            _train(study, "transfer", systems, folds, data, start=elsewhere, iterations=_half(study))]


def train_curve(study: Study, data: str = "") -> list[str]:
    """The same for the learning curve, after `train_steps`: one system on one fold, started from half of scanner B's
    images, and with a half and a quarter of its own."""
    system, fold, elsewhere = _systems(study)[:1], _folds(study)[:1], f"{study.name}-elsewhere"
    own = next(run["train_cases"] for run in study.records if (run["system"], run["fold"]) == (system[0], fold[0]))
    half = _train(study, "elsewhere-half", system, [ALL], dataset=OTHER,
                  train_images=study.facts["config"]["phantom_cases"] // 2)
    names = [_train(study, "scanner-b-half", system, fold, data, start=half, iterations=0),
             _train(study, "transfer-from-half", system, fold, data, start=half, iterations=_half(study))]
    for part, images in (("half", own // 2), ("quarter", own // 4)):
        names += [_train(study, f"strong-{part}", system, fold, data, train_images=images),
                  _train(study, f"transfer-{part}", system, fold, data, start=elsewhere, iterations=_half(study),
                         train_images=images)]
    return names


def _train(study: Study, suffix: str, systems: list[str], folds: list, data: str = "", dataset: str = "",
           start: str = "", **settings) -> str:
    """Runs of the study's own settings, recipe strong and `settings`; returns the name of the study that keeps them."""
    name = f"{study.name}-{suffix}"
    config = Config(**study.facts["config"] | {"recipe": "strong"} | settings)
    source = open_source(dataset or study.facts["dataset"], data, None, config, name)
    for system in systems:
        for fold in folds:
            try:
                run_fold(system, fold, config, source, study=name, seed=int(study.runs["seed"].min()),
                         start_from=outputs_root() / start if start else "")
            except StudyError as error:
                raise StudyError(f"{error}\nNotebook 15 trains {name} itself. If an earlier version of the library "
                                 f"did, delete the folders {outputs_root() / study.name}-* and run it again.") from None
    return name


def _systems(study: Study) -> list[str]:
    return [name for name in BY_DEFAULT if name in study.systems]


def _folds(study: Study) -> list[int]:
    return sorted(int(fold) for fold in study.runs["fold"].unique())[:FOLDS]


def _half(study: Study) -> int:
    return max(1, study.facts["plan"]["iterations"] // 2)
