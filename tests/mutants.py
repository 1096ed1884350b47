"""python -m tests.mutants: faults of mutants.toml, put into a copy of the library one at a time: are they noticed?

`./run_tests.sh --mutants` calls this for all of them; tests/test_mutants.py for two, drawn by the date.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTICED, SURVIVED = "noticed", "SURVIVED"


def read() -> list[dict]:
    """The rows of mutants.toml: what, file, line, fault, test."""
    return tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


def copy_tree(folder: Path) -> Path:
    """Library and tests in `folder`, where faults can be put in."""
    for name in ("xbuslib", "tests", "docs", "notebooks", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def outcome(mutant: dict, tree: Path) -> str:
    """Whether the test that a mutant names fails with its fault in the copied `tree`, which is whole again after."""
    path = tree / mutant["file"]
    source = path.read_text(encoding="utf-8")
    if source.split("\n").count(mutant["line"]) != 1:
        return "its line does not occur exactly once"
    path.write_text("\n".join(mutant["fault"] if line == mutant["line"] else line for line in source.split("\n")))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", mutant["test"]],
            cwd=tree, capture_output=True, text=True, timeout=600, check=False,
            # no bytecode: that of a fault must not be read after it is gone
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"})
    finally:
        path.write_text(source, encoding="utf-8")
    return {0: SURVIVED, 1: NOTICED}.get(done.returncode, f"pytest ended with {done.returncode}: {done.stdout[-300:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants whose file or words hold this text")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    chosen = parser.parse_args()
    mutants = [row for row in read() if chosen.only in row["file"] + row["what"]]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(chosen.jobs) as pool:
        trees = [copy_tree(Path(folder) / str(number)) for number in range(chosen.jobs)]

        def work(mutant: dict) -> str:
            tree = trees.pop()  # each thread has a tree of its own
            try:
                return outcome(mutant, tree)
            finally:
                trees.append(tree)

        found = []
        for mutant, result in zip(mutants, pool.map(work, mutants), strict=True):
            found.append(result)
            print(f"{len(found)}/{len(mutants)} {result}: {mutant['file']}, {mutant['what']}", flush=True)
    print(f"{found.count(NOTICED)} of {len(found)} faults noticed")
    sys.exit(found.count(NOTICED) < len(found))


if __name__ == "__main__":
    main()
