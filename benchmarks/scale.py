"""python -m benchmarks.scale: what a case costs when there are ten and a hundred times as many.

Every stage of a study runs on 250, 2500 and 25 000 phantom cases at a small size, each in a process of its own, so
that its peak memory is its own; what a stage begins with is read beforehand and counts neither as time nor as memory.
A slope is that of log seconds over log cases: 1 where each case costs the same, less where a fixed cost is spread
thinner, more where a case grows dearer.

Simulating 25 000 phantoms would take hours, so 60 are simulated and their files linked under as many names as it takes:
each is opened, read, hashed and decoded like any other. `fold` is a whole fold of XBusNet in its quick size, with two
training steps. `collect` and `tables` read 15 runs (three systems on five folds) whose per-image scores are drawn at
random; everything else in them is as a run writes it.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer

from benchmarks import machine
from xbuslib.analyses.performance import paper_tables
from xbuslib.analyses.performance.comparisons import compare_all
from xbuslib.config import Config, resolve
from xbuslib.data import catalogue, folds, images
from xbuslib.data.phantom import phantom
from xbuslib.data.phantom.sheet import write_workbook
from xbuslib.display.terminal import show
from xbuslib.evaluation import metrics
from xbuslib.files import outputs_root
from xbuslib.models import registry
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import TextTable, TrainingPrompts
from xbuslib.runs import environment, record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import Source, open_source
from xbuslib.runs.study import open_study
from xbuslib.training import recipes

STUDY, SIMULATED = "scale", 60
SYSTEMS = ("unet", "xbusnet", "xbusnet-no-sfa")  # of the drawn runs: one without prompts, the model, an ablation


# ---- what stands before the stages ------------------------------------------------------------------------------


def make(root: Path, n: int) -> Path:
    """A phantom of n cases in BLU's layout: SIMULATED different ones under n names."""
    first = phantom.write(root.with_name("simulated"), n=SIMULATED, size=(96, 96))
    table = pd.read_excel(first / phantom.TABLE, dtype=object)
    (root / phantom.IMAGES).mkdir(parents=True)
    rows = []
    for number in range(n):
        row = table.iloc[number % SIMULATED].to_dict() | {"CaseID": number + 1}
        for column in ("Image_filename", "Mask_tumor_filename"):
            if isinstance(row[column], str):
                name = f"case{number + 1:06d}{row[column].removeprefix('case')[3:]}"  # case001… has three digits
                os.link(first / phantom.IMAGES / row[column], root / phantom.IMAGES / name)
                row[column] = name
        rows.append([None if pd.isna(value) else value for value in row.values()])
    write_workbook(root / phantom.TABLE, {phantom.SHEETS[0]: [list(table.columns), *rows]})
    return root


def config(size: int) -> Config:
    return resolve("smoke", {"image_size": size, "iterations": 2, "prediction_batch": 64})


def source(size: int) -> Source:
    return open_source("phantom", outputs_root() / "data", None, config(size), STUDY)


def draw_runs(size: int) -> None:
    """SYSTEMS on all folds, made from the one run of `fold`: other scores, and each fold's own cases."""
    whole, rng = source(size), np.random.default_rng(0)
    first = record.folder(STUDY, "xbusnet", 0, 0)
    run = record.read(first)
    for system, fold in product(SYSTEMS, range(config(size).folds)):
        cases = whole.split(fold)[1]
        scorings = run["scorings"] if system != "unet" else [["none", "none"]]
        names = {"system": system, "paper_name": registry.REGISTRY[system].paper, "fold": fold, "scorings": scorings}
        scores = [pd.DataFrame(rng.random((len(cases), 8)), columns=metrics.PAPER + metrics.RELEASED)
                  .assign(case_id=cases["case_id"], policy=policy, attributes=attributes)
                  for policy, attributes in scorings]
        folder = record.folder("drawn", system, fold, 0)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(run | names | {"study": "drawn"}))
        pd.concat(scores).to_csv(folder / "per_image.csv", index=False)
        images.case_table(cases, whole.prepared).to_csv(folder / "cases.csv", index=False)


# ---- the stages: each reads what it begins with and returns what is to be timed -----------------------------------


def load(size: int) -> Callable:
    return lambda: catalogue.load("phantom", outputs_root() / "data")


def prepare(size: int) -> Callable:
    table = catalogue.load("phantom", outputs_root() / "data")
    path = outputs_root() / STUDY / "prepared" / f"phantom_{size}"
    return lambda: images.prepare(table, size, path)


def reopen(size: int) -> Callable:
    return lambda: source(size)


def split(size: int) -> Callable:
    cases = source(size).cases
    return lambda: folds.checksum(folds.split(cases))


def training_prompts(size: int) -> Callable:
    whole, cpu = source(size), torch.device("cpu")
    cases = whole.split(0)[0]
    rows = whole.prepared.rows(cases["case_id"])
    system, plan = registry.build("xbusnet", config(size)), recipes.plan("xbusnet", config(size), len(cases))
    return lambda: TrainingPrompts(system, cases, whole.prepared, rows, words.size_edges(
        whole.prepared.long_sides[rows]), plan, TextTable(system, cpu))


def fold(size: int) -> Callable:
    whole = source(size)
    return lambda: run_fold("xbusnet", 0, config(size), whole, study=STUDY)


def score(size: int) -> Callable:
    whole = source(size)
    cases = whole.split(0)[1]
    references = whole.prepared.masks[whole.prepared.rows(cases["case_id"])]
    predictions = np.roll(references, 1, axis=2)
    return lambda: (metrics.per_image(predictions, references), images.case_table(cases, whole.prepared))


def collect(size: int) -> Callable:
    draw_runs(size)
    return lambda: (record.collect("drawn"), record.study_summary("drawn"))


def tables(size: int) -> Callable:
    def make_tables():
        study = open_study("drawn")
        return [table(study) for table in (paper_tables.table_1, paper_tables.table_2, paper_tables.table_3,
                                          paper_tables.table_4, compare_all)]

    return make_tables


STAGES = {"load the case table": load, "prepare (decode)": prepare, "open again": reopen, "split into folds": split,
          "prompts of a fold": training_prompts, "fold": fold, "score a fold": score, "collect": collect,
          "tables and tests": tables}


# ---- measuring --------------------------------------------------------------------------------------------------


def measure(stage: str, n: int, size: int, outputs: Path) -> dict:
    """Seconds and peak memory of one stage on n cases. Run in a process of its own."""
    os.environ |= {"XBUS_OUTPUTS": str(outputs), "XBUS_PROGRESS": "plain"}
    work = STAGES[stage](size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, began, at_work = memory("VmRSS"), time.perf_counter(), time.process_time()
    work()
    seconds, cpu_seconds, peak = time.perf_counter() - began, time.process_time() - at_work, memory("VmHWM")
    return {"stage": stage, "cases": n, "seconds": seconds, "cpu_seconds": cpu_seconds,
            "ms_per_case": 1e3 * seconds / n, "peak_gb": peak / 1e9,
            "bytes_per_case": max(0, round((peak - before) / n))}


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak (proc(5), Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


def slopes(rows: list[dict]) -> list[dict]:
    """The rows, each with its stage's slope of log seconds over log cases; None with one number of cases."""
    table = pd.DataFrame(rows)
    for stage, part in table.groupby("stage"):
        x, y = np.log(part["cases"]), np.log(part["seconds"])
        table.loc[table["stage"] == stage, "slope"] = np.polyfit(x, y, 1)[0] if len(part) > 1 else np.nan
    return table.astype(object).where(table.notna(), None).to_dict("records")


def main(cases: str = typer.Option("250,2500,25000", help="numbers of cases, by commas"),
         size: int = typer.Option(32, help="image side, pixels"),
         out: Path = typer.Option(None, help="also write CSV with hardware and versions"),
         as_json: bool = typer.Option(False, "--json")) -> None:
    """Time every stage of a study, and take its peak memory, for each number of cases."""
    rows, context = [], get_context("forkserver")
    context.set_forkserver_preload(["xbuslib.runs.fold", "xbuslib.analyses.performance.paper_tables"])  # once
    for n in map(int, cases.split(",")):
        outputs = Path(tempfile.mkdtemp())
        try:
            make(outputs / "data", n)
            with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
                rows += [pool.submit(measure, stage, n, size, outputs).result() for stage in STAGES]
        finally:
            shutil.rmtree(outputs)
    rows = slopes(rows)
    if out is not None:
        pd.DataFrame(rows).assign(size=size, **machine.facts()).to_csv(out, index=False)
    rows.sort(key=lambda row: list(STAGES).index(row["stage"]))
    show(rows, as_json, f"stages of a study at {size} pixels, {environment.facts()['device']}")


if __name__ == "__main__":
    typer.run(main)
