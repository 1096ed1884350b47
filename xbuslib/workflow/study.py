"""The study as a whole: check everything that can be checked now, then hand over to Snakemake."""

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from xbuslib.config import Config, resolve
from xbuslib.errors import StudyError, machine_faults
from xbuslib.files import ELSEWHERE, REPOSITORY, outputs_root, write_whole
from xbuslib.runs.record import ALL
from xbuslib.workflow import marks, parent, request
from xbuslib.workflow.marks import DONE
from xbuslib.workflow.notebooks import analyses
from xbuslib.workflow.request import Request

PROFILES = REPOSITORY / "workflow" / "profiles"  # how jobs are run: on this machine, or on a Slurm cluster
NOTEBOOKS = ["01_explore_data", "02_design_prompts", "03_model_anatomy"]
FOLDERS = "XBUS_WEIGHTS", "XBUS_DATA"  # given to the jobs as absolute paths: a job runs in the study's folder
PATIENCE = 2  # seconds for the jobs of a study whose command was killed to end (parent.py)
QUEUED = 100  # Slurm jobs at once: more than eleven systems on five folds; the cluster has its own limit


class Settings(BaseModel):
    """What `xbuslib study` hands to the Snakefile (outputs/<study>/study.json)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    study: str
    dataset: str
    data: str
    fold_lists: str
    profile: str
    overrides: list[str]
    systems: list[str]
    folds: list[int] | list[str]  # numbers, or "all" alone
    start_from: str
    seeds: list[int]
    threads: int
    notebooks: list[str]  # run once per study, beside the folds
    analyses: dict[str, dict[str, str]]  # run once per study, after all folds, each with its parameters


def settle(wanted: Request) -> tuple[Settings, int]:
    """Checked settings, and how many folds run at once. Raises StudyError before anything is started.

    By default each GPU takes one fold; on CPUs the small profiles train one fold per core and `paper`, which needs
    the memory and the cores, one fold at a time. On a cluster the queue decides, and its profile says how many cores
    a job gets. Of the study's folder only what is made of the dataset's images is written.
    """
    from xbuslib.runs.source import open_source
    from xbuslib.training import recipes

    config, systems, slurm = resolve(wanted.profile, wanted.overrides), wanted.systems, slurm_profile(wanted)
    if config.weights == "pretrained":
        _require_weights(systems)
    _check_machine(wanted.gpus, slurm)
    cores = len(os.sched_getaffinity(0))
    at_once = wanted.jobs or len(wanted.gpus) or (QUEUED if slurm else 1 if config.size == "paper" else cores)
    data, fold_lists = (str(Path(place).resolve()) if place else "" for place in (wanted.data, wanted.fold_lists))
    there = (outputs_root() / wanted.name).is_dir()
    with _alone(wanted.name) if there else nullcontext():  # the images of a study at work are not decoded anew
        source = open_source(wanted.dataset, data, fold_lists, config, wanted.name)
    known, everything = sorted(set(source.fold_of)), wanted.folds == ALL
    numbers = [ALL] if everything else wanted.folds if isinstance(wanted.folds, list) else known
    wrong = [fold for fold in numbers if fold not in (*known, ALL)]
    if wrong:
        raise StudyError(f"there is no fold {wrong[0]}; the folds are 0 … {known[-1]}")
    for system, fold in itertools.product(systems, numbers):  # a recipe that a system does not have is refused here
        recipes.require_training(recipes.plan(system, config, len(source.split(fold)[0])), wanted.start_from)
    if wanted.start_from:
        _require_unseen(wanted, systems, numbers, source)
    settings = Settings(
        study=wanted.name, dataset=wanted.dataset, data=data, fold_lists=fold_lists, profile=wanted.profile,
        overrides=wanted.overrides, systems=systems, folds=numbers, seeds=wanted.seeds,
        start_from=_start(wanted),
        threads=max(1, cores // at_once), notebooks=[] if everything else NOTEBOOKS,  # nothing is scored then
        analyses={} if everything else analyses(wanted.name, wanted.dataset, data, systems))
    _refuse_other_settings(settings, config, source)
    return settings, at_once


def _start(wanted: Request) -> str:
    """The absolute path of the folder to start from; of a repository of the hub, that of its copy here."""
    if not wanted.start_from:
        return ""
    from xbuslib.runs import published  # here: it waits for torch

    return str(published.local(wanted.start_from).resolve())


def _require_unseen(wanted: Request, systems: list[str], numbers: list, source) -> None:
    """Every run to start from is there, and has seen no image of the folds to be scored."""
    from xbuslib.runs import ancestors

    for system, seed in itertools.product(systems, wanted.seeds):
        ancestor = ancestors.find(Path(wanted.start_from), system, seed)
        for fold in numbers:
            ancestors.guard(ancestor, source.pictures(source.split(fold)[1]))


def slurm_profile(wanted: Request) -> Path | None:
    """The profile folder of the cluster that the jobs are submitted to; None: they run here."""
    return Path(wanted.slurm_profile) if wanted.slurm_profile else PROFILES / "slurm" if wanted.slurm else None


def run_study(wanted: Request, settings: Settings, at_once: int, dry_run: bool = False) -> bool:
    """Run Snakemake on what `settle` made of `wanted`; True if there was something to do.

    Leaves study.json and study.yaml, the study file that repeats the study, in its folder; a dry run leaves neither.
    Raises StudyError if a job failed, or if a command of the same study is at work, of which nothing is changed.
    """
    folder, slurm = outputs_root() / settings.study, slurm_profile(wanted)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "workflow" / "Snakefile"),
               "--directory", str(folder), "--profile", str(slurm or PROFILES / "local"),
               "--nolock",  # our own lock below: it cannot outlive a killed process
               *(["--jobs", str(at_once)] if slurm else ["--cores", str(at_once * settings.threads)])]
    given = {name: str(Path(os.environ[name]).resolve()) for name in FOLDERS if os.environ.get(name)}
    environment = os.environ | given | {"XBUS_OUTPUTS": str(outputs_root()),
                                        "XBUS_GPUS": "" if slurm else ",".join(wanted.gpus)}
    if dry_run:
        with tempfile.TemporaryDirectory() as place:
            command += ["--configfile", str(_write_settings(wanted, settings, Path(place))), "--dry-run"]
            if subprocess.run(command, env=environment, check=False).returncode != 0:
                raise StudyError("Snakemake could not plan the study; what it said is above")
            return True
    environment |= {} if slurm else parent.mark()  # jobs of a cluster are the queue's
    with _alone(settings.study):
        marks.forget_other_settings(settings.model_dump(), settings.notebooks, folder)
        command += ["--configfile", str(_write_settings(wanted, settings, folder))]
        marks.forget_deleted(folder)
        marks.date_back(folder)
        before = marks.made(folder)
        if subprocess.run(command, env=environment, check=False).returncode != 0:
            raise StudyError(
                "these jobs failed:\n" + "\n".join(f"  {job}" for job in _undone(settings, folder)[:30])
                + f"\nTheir executed notebooks are in {folder / 'notebooks'}. The same command goes on with what "
                f"is left; `xbuslib report {settings.study} --partial` shows what is there."
                + (f" Slurm's own logs are in {folder / '.snakemake' / 'slurm_logs'}." if slurm else ""))
    return marks.made(folder) != before


@contextmanager
def _alone(study: str) -> Iterator[None]:
    """Hold the study's lock. Raises StudyError if another command of the same study is at work."""
    folder = outputs_root() / study
    lock = FileLock(folder / ".study.lock", timeout=PATIENCE)
    with machine_faults(f"cannot write to {folder}", ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise StudyError(f"study {study} is already running; wait for it, or give another --study") from None
    try:
        yield
    finally:
        lock.release()


def _write_settings(wanted: Request, settings: Settings, folder: Path) -> Path:
    """Write study.json and study.yaml into `folder`; returns the first, which the Snakefile reads."""
    places = {"data": settings.data, "folds": settings.fold_lists or wanted.folds}  # whole paths, for use elsewhere
    if not wanted.start_from.startswith("hf:"):  # an address of the hub stays one
        places["start_from"] = settings.start_from
    with write_whole(folder / "study.yaml") as partial:
        request.write(wanted.model_copy(update=places), partial)
    path = folder / "study.json"
    with write_whole(path) as partial:
        partial.write_text(json.dumps(settings.model_dump(), indent=1) + "\n")
    return path


def _undone(settings: Settings, folder: Path) -> list[str]:
    """What Snakemake tried and did not finish; what waits for that is not named."""
    grid = itertools.product(settings.systems, settings.folds, settings.seeds)
    folds = [f"04_train_fold: {system}, fold {fold}, seed {seed}" for system, fold, seed in grid
             if not (folder / "runs" / system / f"fold_{fold}" / f"seed_{seed}" / DONE).is_file()]
    tried = settings.notebooks + ([] if folds else [*settings.analyses])
    notebooks = [name for name in tried if not (folder / "notebooks" / f"{name}.done").is_file()]
    return folds + notebooks or ["report"]


def _require_weights(systems: list[str]) -> None:
    """Find or fetch every weights file once, before jobs ask for them side by side; all that are missing are named."""
    from xbuslib.models import registry
    from xbuslib.models.weights import locate

    faults = []
    for encoder in sorted({encoder for system in systems for encoder in registry.entry(system).encoders}):
        try:
            locate(encoder)
        except StudyError as error:
            faults.append(str(error))
    if faults:
        raise StudyError("\n".join(faults))


def _check_machine(gpus: list[str], slurm: Path | None) -> None:
    """What --gpus or --slurm asks of this machine is there."""
    if slurm:
        if gpus:
            raise StudyError("--gpus is for one machine; under --slurm the cluster hands out its GPUs (gres in the "
                             "profile)")
        if not (slurm / "config.yaml").is_file():
            raise StudyError(f"{slurm} holds no config.yaml; copy {PROFILES / 'slurm'} and edit the copy")
        if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
            raise StudyError("--slurm needs snakemake-executor-plugin-slurm: "
                             f"{sys.executable} -m pip install -c constraints.txt -e '.[slurm]'")
        if shutil.which("sbatch") is None:
            raise StudyError("--slurm needs Slurm's sbatch, which is not here; start it where jobs are submitted from")
    elif gpus:
        _check_gpus(gpus)


def _check_gpus(gpus: list[str]) -> None:
    """Each id once, and there: CUDA would pass over an unknown one in silence and leave the fold to the CPU."""
    import torch

    if len(set(gpus)) < len(gpus):
        raise StudyError(f"--gpus {','.join(gpus)} names a GPU twice")
    there = torch.cuda.device_count()
    unknown = [gpu for gpu in gpus if gpu.isdigit() and int(gpu) >= there]
    if not there:
        print("PyTorch sees no GPU here: the folds of --gpus run on the CPU", file=sys.stderr)
    elif unknown and "CUDA_VISIBLE_DEVICES" not in os.environ:  # which numbers anew the ones it leaves
        raise StudyError(f"there is no GPU {', '.join(unknown)}; the GPUs are 0 … {there - 1}")


def _refuse_other_settings(settings: Settings, config: Config, source) -> None:
    """Finished runs of this study must be of the same protocol, data and ancestors: nothing is overwritten."""
    from xbuslib.runs import ancestors, identity, record
    from xbuslib.training import recipes

    inputs, known, lineages = source.identity(), {*source.fold_of, ALL}, {}
    there = record.files_of_runs(settings.study)
    for path in there:  # files of weights and precision need the model: they are compared where runs meet
        run = record.read(path.parent)
        if run.get("adopted"):  # its folder was never of this study's systems; only data and settings must be the same
            record.refuse_changes(path.parent, run, run | inputs | {"config": config.model_dump()})
            continue
        if run["system"] in settings.systems and bool(run.get("ancestors")) != bool(settings.start_from):
            raise StudyError(f"{path.parent} was {'' if run.get('ancestors') else 'not '}started from another run, and "
                             f"this command {'names one' if settings.start_from else 'names none'} (--start-from). The "
                             "folds of a system are started alike; give this study another name with --study.")
        images = len(source.split(run["fold"])[0]) if run["fold"] in known else run["train_cases"]
        asked = run | inputs | {"protocol": identity.PROTOCOL, "config": config.model_dump(), "train_cases": images,
                                "plan": recipes.plan(run["system"], config, images).record()}
        if settings.start_from and run["system"] in settings.systems and run["seed"] in settings.seeds:
            if (key := (run["system"], run["seed"])) not in lineages:  # each file of weights is read once
                lineages[key] = ancestors.lineage(ancestors.find(Path(settings.start_from), *key))
            asked["ancestors"] = lineages[key]
        record.finished(path.parent, asked)
        if run["weights"] and run["config"]["weights"] != config.weights:
            raise StudyError(f"{path.parent} was made with weights={run['config']['weights']}, and this command asks "
                             f"for {config.weights}. Give this study another name with --study.")
    ready = outputs_root() / settings.study / "prepared" / "ready.json"
    if there and not ready.exists():  # its images were deleted, and have just been decoded again: the same data,
        with write_whole(ready) as partial:  # so nothing that rests on them is out of date
            partial.write_text(json.dumps(inputs))
        os.utime(ready, (0, 0))
