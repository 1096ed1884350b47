"""Faults of the machine other than kills: disk, folders, limits, memory, kernels, clocks, two at once.

Each must end with one message and an exit code other than 0, leave earlier results whole, and go on to the undisturbed
tables when the same command is given again after the fault is gone.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.faults.study import SMALL, STAGES, STUDY, Ended, command, run, sums

DISK = "size=600m"  # several times a small study with a training checkpoint
NOTEBOOK = ["-p", f"study={STUDY}", "-p", "profile=smoke", "-p", 'overrides=["phantom_cases=12", "folds=2"]']


class Outcome(NamedTuple):
    """What became of a fault."""

    problems: list[str]  # promises that were broken
    message: str  # what the command said last


class Place(NamedTuple):
    """Where a fault happens."""

    tree: Path  # the library
    outputs: Path
    whole: Path  # outputs of the same study undisturbed
    mount: Path | None  # the small disk that holds `outputs`; None: mounting is refused


def faults(tree: Path, folder: Path, only: str = "") -> Iterator[tuple[str, Outcome]]:
    """Every fault whose name holds `only`, with its outcome; those that need a mount say so where it is refused."""
    whole = folder / "whole"
    first = run(tree, whole, command("fold", whole))
    assert first.code == 0, first.said[-2000:]
    for name, fault in FAULTS.items():
        if only in name:
            with small_disk(folder / "disk") as mount:
                place = Place(tree, (mount or folder / "plain") / "outputs", whole, mount)
                if name.startswith(NEED_A_DISK) and mount is None:
                    yield name, Outcome([], "skipped: this user may not mount a disk here")
                else:
                    yield name, fault(place)
                shutil.rmtree(place.outputs, ignore_errors=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs at `folder` while the block runs; None where mounting is refused."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "none", folder], capture_output=True, check=False)
    try:
        yield None if mounted.returncode else folder
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", folder], check=False)


def during(stage: str, do: str, mend: Callable[[Place], None] = lambda place: None,
           arguments: tuple[str, ...] = ("fold", "--system", "xbusnet", *SMALL), start: str = "prepared",
           words: str = "", **environment: str) -> Callable[[Place], Outcome]:
    """A fault of the hook in one stage of a command, mended, and the same command again.

    start: "empty", "prepared" (data made and decoded) or "fold" (that is there, too). words: what must be said.
    """

    def happen(place: Place) -> Outcome:
        begin(place, start)
        before = sums(place.outputs)
        flag = place.tree.parent / "happened"
        flag.unlink(missing_ok=True)
        given = [part.replace("OUTPUTS", str(place.outputs)) for part in arguments]
        ended = run(place.tree, place.outputs, given, {"at": STAGES[stage], "do": do, "flag": str(flag),
                                                       "mount": str(place.mount)}, **environment)
        made_anew = do == "vanish" and ended.code == 0  # its folder, which the run then finished in
        problems = ([] if made_anew else ended.problems()) + ([] if flag.exists() else ["the fault did not happen"])
        problems += [f"not said: {words}"] if words not in ended.said else []
        mend(place)
        if do != "vanish":
            problems += [f"{name} was lost" for name, value in before.items() if sums(place.outputs).get(name) != value]
        again = run(place.tree, place.outputs, given)
        return Outcome(problems + resumed(place, again), last_words(ended))

    return happen


def begin(place: Place, start: str) -> None:
    """Outputs as they are when a fault is to come."""
    place.outputs.mkdir(parents=True, exist_ok=True)
    if start == "empty":
        return
    shutil.copytree(place.whole, place.outputs, dirs_exist_ok=True)
    if start == "prepared":
        shutil.rmtree(place.outputs / STUDY / "runs")


def resumed(place: Place, again: Ended) -> list[str]:
    """What is wrong after the same command: its exit code, or tables other than the undisturbed ones."""
    if again.code != 0:
        return [f"again ended with {again.code}: {last_words(again)}"]
    wanted, found = sums(place.whole), sums(place.outputs)
    return [f"{name} differs" for name, value in wanted.items() if found.get(name) != value]


def last_words(ended: Ended) -> str:
    """The message of a command in one line."""
    return " ".join(ended.said.rpartition("error: ")[2].split())[-300:]


def empty_disk(place: Place) -> None:
    """Take away what filled the disk."""
    (place.outputs / "filler").unlink()


def writable(place: Place) -> None:
    """Make the disk writable again."""
    subprocess.run(["mount", "-o", "remount,rw", place.mount], check=True)


def clock_set_back(place: Place) -> Outcome:
    """A finished study's files are an hour younger than now, as after a clock that went back; a run is made anew."""
    begin(place, "prepared")
    study = command("study", place.outputs)
    first = run(place.tree, place.outputs, study)
    before = sums(place.outputs)
    later = time.time() + 3600
    for path in place.outputs.rglob("*"):
        os.utime(path, (later, later), follow_symlinks=False)
    next(place.outputs.glob("*/runs/*/*/*/run.json")).unlink()
    again = run(place.tree, place.outputs, study)
    problems = [f"ended with {ended.code}: {last_words(ended)}" for ended in (first, again) if ended.code]
    return Outcome(problems + ([] if sums(place.outputs) == before else ["tables differ"]), "no message is needed")


def two_at_once(place: Place) -> Outcome:
    """A second study on the same folder while one runs: refused at once, and the first one is whole."""
    return _second(place, place.outputs)


def two_mounts(place: Place) -> Outcome:
    """The same, by another path to the same disk, as another machine has it."""
    other = place.mount.with_name("other_mount")
    other.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", place.mount, other], check=True)
    try:
        return _second(place, other / place.outputs.name)
    finally:
        subprocess.run(["umount", "-l", other], check=False)


def _second(place: Place, outputs: Path) -> Outcome:
    begin(place, "prepared")
    log = place.tree.parent / "first.log"
    with log.open("wb") as file:
        first = subprocess.Popen(
            [sys.executable, "-m", "xbuslib", *command("study", place.outputs)], cwd=place.tree, stdout=file,
            stderr=file, env=os.environ | {"XBUS_OUTPUTS": str(place.outputs), "OMP_NUM_THREADS": "1",
                                           "PYTHONPATH": str(place.tree)})
        while not (place.outputs / STUDY / ".snakemake").is_dir() and first.poll() is None:
            time.sleep(0.2)
        settings = (place.outputs / STUDY / "study.json").read_bytes()
        second = subprocess.run(
            [sys.executable, "-m", "xbuslib", *command("study", outputs)], cwd=place.tree, capture_output=True,
            text=True, env=os.environ | {"XBUS_OUTPUTS": str(outputs), "PYTHONPATH": str(place.tree)}, check=False)
        kept = (place.outputs / STUDY / "study.json").read_bytes() == settings
        code = first.wait()
    ended = Ended(second.returncode, second.stdout + second.stderr, 0, 0)
    problems = ended.problems() + ([] if "is already running" in ended.said else ["not refused as running"])
    problems += [f"the first ended with {code}"] if code else []
    problems += [] if kept else ["the second changed the settings of the first"]
    return Outcome(problems + resumed(place, Ended(code, log.read_text(errors="replace"), 0, 0)), last_words(ended))


def of_notebook(name: str = "04_train_fold") -> tuple[str, ...]:
    """The command that runs a notebook into the study's folder."""
    return ("notebook", name, "--output", f"OUTPUTS/{name}.ipynb", *NOTEBOOK)


NEED_A_DISK = ("disk full", "read-only", "two mounts")
FAULTS: dict[str, Callable[[Place], Outcome]] = {
    "disk full while data are made": during("data", "fill", empty_disk, start="empty"),
    "disk full while images are decoded": during("prepare", "fill", empty_disk, start="empty"),
    "disk full in training": during("train", "fill", empty_disk, words="checkpoint"),
    "disk full while a run is written": during("write", "fill", empty_disk),
    "disk full in a notebook": during("notebook", "fill", empty_disk, arguments=of_notebook()),
    "read-only folder in training": during("train", "read only", writable),
    "vanishing folder in training": during("train", "vanish"),
    "limit on the size of files": during("train", "file size"),
    "out of memory in training": during("train", "address space", words="memory"),
    "out of memory said by Python": during("score", "memory", words="not enough memory"),
    "a kernel that dies": during("train", "die", arguments=of_notebook(), words="its kernel died"),
    "a kernel that hangs": during("train", "hang", arguments=of_notebook(), words="XBUS_CELL_HOURS",
                                  XBUS_CELL_HOURS="0.012"),
    "two studies at once": two_at_once,
    "two mounts of one folder": two_mounts,
    "clock set back": clock_set_back,
}
