"""python -m benchmarks.study: one fold of each system by stage, from a cold start to the written run folder."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import typer

from benchmarks import machine
from xbuslib.config import resolve
from xbuslib.display.terminal import show
from xbuslib.files import REPOSITORY
from xbuslib.models import registry
from xbuslib.runs import environment, record
from xbuslib.runs.source import open_source

IMPORTS = "import xbuslib.runs.fold"


def fold(system: str, profile: str, overrides: list[str], outputs: Path) -> dict:
    """Seconds of each stage of `xbuslib fold`, and of the whole command."""
    variables = os.environ | {"XBUS_OUTPUTS": str(outputs), "XBUS_PROGRESS": "plain"}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], env=variables, check=True, cwd=REPOSITORY)
    start_up = time.perf_counter() - began
    command = [sys.executable, "-m", "xbuslib", "fold", "--system", system, "--study", "benchmarks",
               "--profile", profile]
    for item in overrides:
        command += ["--set", item]
    began = time.perf_counter()
    subprocess.run(command, env=variables, check=True, cwd=REPOSITORY, capture_output=True)
    whole = time.perf_counter() - began
    run = record.read(outputs / "benchmarks" / "runs" / system / "fold_0" / "seed_0")
    stages = run["seconds"]
    score = stages["total"] - stages["encode"] - stages["train"]
    return {"system": system, "whole_s": whole, "start_up_s": start_up, "encode_s": stages["encode"],
            "train_s": stages["train"], "score_s": score, "rest_s": whole - start_up - stages["total"],
            "step_s": stages["train"] / run["plan"]["iterations"], "precision": run["precision"],
            "peak_memory_gb": run["peak_memory_gb"]}


def main(systems: str = typer.Option("xbusnet", help="names by commas, or all"),
         profile: str = typer.Option("quick"),
         overrides: list[str] = typer.Option([], "--set", help="key=value, as for a study"),
         out: Path = typer.Option(None, help="also write CSV with hardware and versions"),
         as_json: bool = typer.Option(False, "--json")) -> None:
    """Time one fold of each system on the phantom; the dataset is made and decoded beforehand, and timed apart."""
    names = registry.names() if systems == "all" else systems.split(",")
    if profile == "paper" and not any(item.startswith("weights=") for item in overrides):
        overrides = [*overrides, "weights=random"]
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder)
        os.environ["XBUS_OUTPUTS"] = folder
        began = time.perf_counter()
        open_source("phantom", None, None, resolve(profile, overrides), "benchmarks")
        typer.echo(f"dataset simulated and decoded in {time.perf_counter() - began:.1f} s", err=True)
        rows = [fold(name, profile, overrides, outputs) for name in names]
    if out is not None:
        about = machine.facts() | {"profile": profile, "overrides": json.dumps(overrides)}
        pd.DataFrame(rows).assign(**about).to_csv(out, index=False)
    show(rows, as_json, f"seconds of one fold, profile {profile}, {environment.facts()['device']}")


if __name__ == "__main__":
    typer.run(main)
