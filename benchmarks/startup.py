"""python -m benchmarks.startup: processor time until the library, a notebook or the command is ready, by commit."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import typer

from benchmarks import machine
from xbuslib.display.terminal import show
from xbuslib.files import REPOSITORY

# What is measured, and the statement; the second one is for trees in which modules still lay side by side.
IMPORTS = {"what reads runs": ("import xbuslib.runs.record", "import xbuslib.runs"),
           "what reads a study": ("import xbuslib.runs.study", "import xbuslib.analysis"),
           "what trains a fold": ("import xbuslib.runs.fold", "import xbuslib.study")}


def commands(tree: Path) -> dict[str, list[str]]:
    """Name and command of everything that is measured in one tree of the repository."""
    layered = (tree / "xbuslib" / "runs").is_dir()
    found = {name: [sys.executable, "-c", new if layered else old] for name, (new, old) in IMPORTS.items()}
    for path in sorted((tree / "notebooks").glob("0[5-8]_*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found[f"imports of {path.stem}"] = [sys.executable, "-c", first]
    return found | {"xbuslib runs --json": [sys.executable, "-m", "xbuslib", "runs", "--json"],
                    "xbuslib systems": [sys.executable, "-m", "xbuslib", "systems", "--json"]}


def processor_seconds(command: list[str], tree: Path, outputs: str) -> float:
    """User and system time of one process and its children."""
    process = subprocess.Popen(command, cwd=tree, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=os.environ | {"PYTHONPATH": str(tree), "XBUS_OUTPUTS": outputs,
                                                 "OMP_NUM_THREADS": "1"})
    message = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed:\n{message}")
    return usage.ru_utime + usage.ru_stime


def unpack(commit: str, folder: Path) -> Path:
    """The tree of a commit, in `folder`."""
    packed = subprocess.run(["git", "-C", str(REPOSITORY), "archive", commit], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder


def main(against: str = typer.Option("e6d1970", help="commit to compare with; by default the last before the layers"),
         times: int = typer.Option(5, help="runs of each, in turns"),
         out: Path = typer.Option(None, help="also write CSV with hardware and versions"),
         as_json: bool = typer.Option(False, "--json")) -> None:
    """Medians of processor seconds, this tree and another commit in turns."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as outputs:
        trees = {"now_s": REPOSITORY, "before_s": unpack(against, Path(folder))}
        both = {which: commands(tree) for which, tree in trees.items()}
        rows = []
        for name in both["now_s"]:
            seconds = {which: [] for which in trees}
            for _ in range(times):
                for which, tree in trees.items():
                    seconds[which].append(processor_seconds(both[which][name], tree, outputs))
            row = {which: statistics.median(values) for which, values in seconds.items()}
            rows.append({"started": name} | row | {"ratio": row["now_s"] / row["before_s"]})
    if out is not None:
        pd.DataFrame(rows).assign(against=against, **machine.facts()).to_csv(out, index=False)
    show(rows, as_json, f"processor seconds, medians of {times}, against {against}")


if __name__ == "__main__":
    typer.run(main)
