"""python -m tests.faults: break a small study in every way there is, and print what became of it.

`./run_tests.sh --faults` calls this; tests/test_faults.py is the short form.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.faults import kills, machine, study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, help="how many SIGKILLs, over all stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("kills", "machine"), help="one half alone")
    parser.add_argument("--folder", help="where to work; default: a temporary folder")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="faults-") as name:
        folder = Path(name).resolve()
        tree = study.small_tree(folder / "tree")
        lost = 0
        if chosen.only != "machine":
            lost += tally_kills(tree, folder, chosen.seed, chosen.kills)
        if chosen.only != "kills":
            lost += tally_machine(tree, folder)
    sys.exit(lost > 0)


def tally_kills(tree: Path, folder: Path, seed: int, wanted: int) -> int:
    """Print each kill and, at the end, how many there were of each kind; the number of those that were not survived."""
    known = kills.reference(tree, folder)
    print(f"undisturbed: {len(known.tables)} tables; seconds of each stage: {known.times}", flush=True)
    made, lost = [], 0
    for some, wrong in kills.rounds(tree, folder, known, seed, wanted):
        made += some
        lost += len(some) if wrong else sum(kill.orphans > 0 for kill in some)
        for kill in some:
            print(f"  {kill.stage}: {kill.who} killed {kill.after} s into it by `xbuslib {kill.by}`, {kill.orphans} "
                  "orphans", flush=True)
        print(f"{len(made)} of {wanted}: " + (f"DIFFERENT: {wrong}" if wrong else "all tables identical"), flush=True)
    counted = Counter((kill.stage, kill.who) for kill in made)
    print(", ".join(f"{stage} ({who}) {n}" for (stage, who), n in sorted(counted.items())))
    print(f"{len(made) - lost} of {len(made)} kills to identical tables and no orphan")
    return lost


def tally_machine(tree: Path, folder: Path) -> int:
    """Print the outcome of every other fault; the number of those that broke a promise."""
    lost = 0
    for name, outcome in machine.faults(tree, folder):
        lost += bool(outcome.problems)
        print(f"  {name}: {'; '.join(outcome.problems) or 'kept'} | {outcome.message}", flush=True)
    return lost


if __name__ == "__main__":
    main()
