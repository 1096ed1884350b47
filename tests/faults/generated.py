"""python -m tests.faults.generated --count 50000: random inputs; only a result or a message of ours may come."""

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.faults.inputs import KINDS
from xbuslib.errors import StudyError


@dataclass
class Tally:
    """What became of the inputs of one kind."""

    inputs: int = 0
    results: int = 0
    refused: int = 0
    defects: dict[str, str] = field(default_factory=dict)  # where and what: the first input that led there


def search(kind: str, count: int, start: int, folder: Path) -> Tally:
    """Draw `count` inputs of a kind from the seed `start` and check each in `folder`; defects are collected."""
    strategy, check, _ = KINDS[kind]
    tally = Tally()

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def once(drawn) -> None:
        tally.inputs += 1
        try:
            check(drawn, folder)
            tally.results += 1
        except StudyError:
            tally.refused += 1
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "xbuslib" in frame.filename]
            where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else f"line {place.lineno}"
            tally.defects.setdefault(f"{where} {type(error).__name__}: {str(error)[:100]}", repr(drawn)[:2000])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once()
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--verbose", action="store_true", help="show the input that led to a defect")
    chosen = parser.parse_args()
    kinds = [kind for kind in KINDS if chosen.only in kind]
    shares = sum(KINDS[kind][2] for kind in kinds)
    total, defects, began = Tally(), 0, time.monotonic()
    os.environ["XBUS_PROGRESS"] = "plain"
    with tempfile.TemporaryDirectory(prefix="generated-") as name:
        for kind in kinds:
            folder = Path(name) / kind.replace(" ", "_")
            folder.mkdir()
            part = search(kind, -(-chosen.count * KINDS[kind][2] // shares), chosen.seed, folder)
            print(
                f"{kind}: {part.inputs} inputs, {part.results} results, {part.refused} refused, "
                f"{len(part.defects)} defects",
                flush=True,
            )
            for what, drawn in part.defects.items():
                print(f"  DEFECT {what}" + (f"\n    {drawn}" if chosen.verbose else ""), flush=True)
            total.inputs += part.inputs
            total.results += part.results
            total.refused += part.refused
            defects += len(part.defects)
    print(
        f"{total.inputs} inputs in {time.monotonic() - began:.0f} s: {total.results} results, {total.refused} refused "
        f"with a message, {defects} defects"
    )
    sys.exit(defects > 0)


if __name__ == "__main__":
    main()
