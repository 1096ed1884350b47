"""The marks by which Snakemake knows what is done, and when one of them no longer holds."""

import json
import os
import sys
import time
from pathlib import Path

DONE = ".done"  # in a run's folder: its job has ended. Snakemake deletes what a failed job made, so not run.json itself
MADE_FROM = "dataset", "data", "fold_lists", "profile", "overrides"  # settings that notebooks 01 to 03 read


def made(folder: Path) -> dict[Path, int]:
    """What Snakemake has made and when: the same before and after, there was nothing to do."""
    run = "runs/*/fold_*/seed_*/"
    patterns = f"{run}run.json", run + DONE, "notebooks/*.done", "report/index.html", "prepared/ready.json"
    return {path: path.stat().st_mtime_ns for pattern in patterns for path in folder.glob(pattern)}


def forget_other_settings(settings: dict, names: list[str], folder: Path) -> None:
    """The notebooks `names`, which no run stands behind, are executed again if the settings (study.json) have changed,
    as they may before the first run is made."""
    if any(folder.glob("runs/*/fold_*/seed_*/run.json")):
        return
    try:
        before = json.loads((folder / "study.json").read_text())
    except (OSError, ValueError):  # a first start, or a file of which nothing can be told
        before = {}
    if any(before.get(key) != settings[key] for key in MADE_FROM):
        for name in names:
            (folder / "notebooks" / f"{name}.done").unlink(missing_ok=True)


def forget_deleted(folder: Path) -> None:
    """A run whose run.json was deleted is made again."""
    for mark in folder.glob(f"runs/*/fold_*/seed_*/{DONE}"):
        if not mark.with_name("run.json").is_file():
            mark.unlink()


def date_back(folder: Path) -> None:
    """Move the dates of all results back by the same time if one is dated after now, as when a clock was set back.

    Their order stays. Snakemake removes a new result that is older than what it is made from.
    """
    dates = made(folder)
    late = max(dates.values(), default=0) - time.time_ns()
    if late > 0:
        print(f"note: results of study {folder.name} are dated up to {late / 1e9:.0f} s after now, as when a clock was "
              "set back; the dates of all its results were moved back by that", file=sys.stderr)
        for path, date in dates.items():
            moved = max(0, date - late)  # decoded images that were made again are dated 0
            os.utime(path, ns=(moved, moved))
