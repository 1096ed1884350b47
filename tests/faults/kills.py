"""SIGKILL at random moments of every stage, then the same command again: are all tables as without the kill?"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults import study
from tests.faults.study import OF_FOLD, STAGES, clear, command, measured, run, sums

SHARE = 0.9  # of a stage's usual time: later, it might be over before the kill
TRIES = 8  # at half the time each, until a stage is killed before it is over
RESULT = {"notebook": f"{study.STUDY}/notebooks/*.done", "report": f"{study.STUDY}/report", "export": "export"}


class Kill(NamedTuple):
    """One kill and what followed it at once."""

    stage: str
    who: str  # "first": the process that was started; "all": it and everything it had started
    by: str  # the command
    after: float  # seconds into the stage
    orphans: int


class Reference(NamedTuple):
    """An undisturbed study with its export."""

    tables: dict[str, str]
    times: dict[str, float]  # of each stage, seconds


def reference(tree: Path, folder: Path) -> Reference:
    """Run the study once without a fault."""
    outputs, times = folder / "undisturbed", {}
    for stage in ("study", "export"):
        ended, found = measured(tree, outputs, command(stage, outputs))
        assert ended.code == 0, ended.said[-3000:]
        times |= found
    found = sums(outputs)
    clear(outputs)
    return Reference(found, times)


def rounds(tree: Path, folder: Path, known: Reference, seed: int, kills: int) -> Iterator[tuple[list[Kill], list[str]]]:
    """Rounds of kills until there are `kills`: by turns the whole study with its export, and one fold by itself.

    A round goes through the stages in their order on one outputs folder, with a kill in each, then goes on to the end.
    Yields the kills, and the names of the tables that differ from the undisturbed ones or are missing.
    """
    draw, done, number = random.Random(seed), 0, 0
    while done < kills:
        by = ("fold", "study")[number % 2]
        outputs = folder / f"round_{number}"
        made = []
        for stage in OF_FOLD if by == "fold" else STAGES:
            if done + len(made) < kills:
                made.append(kill(tree, outputs, stage, by, ("first", "all")[(number // 2 + len(made)) % 2],
                                 draw.uniform(0, SHARE) * known.times[stage]))
        wrong = finish(tree, outputs, by, known)
        clear(outputs)
        done, number = done + len(made), number + 1
        yield made, wrong


def kill(tree: Path, outputs: Path, stage: str, by: str, who: str, after: float) -> Kill:
    """Start the command and kill it `after` seconds into a stage. What an export needs is finished first.

    A stage that is over before, or does not happen since its result is there, loses the result and happens again.
    """
    if stage == "export":
        finish(tree, outputs, "study", None)
    flag = outputs.parent / f"{outputs.name}.{stage}.flag"
    for tried in range(TRIES):
        flag.unlink(missing_ok=True)
        ended = run(tree, outputs, command("export" if stage == "export" else by, outputs),
                    {"at": STAGES[stage], "do": f"kill {who}", "delay": after / 2**tried, "flag": str(flag)})
        if ended.code == -9:
            return Kill(stage, who, by, round(after / 2**tried, 2), ended.orphans)
        clear(*outputs.glob(RESULT.get(stage, f"{study.STUDY}/runs")))
    raise AssertionError(f"{stage} could not be killed in {TRIES} tries: {ended.said[-500:]}")


def finish(tree: Path, outputs: Path, by: str, known: Reference | None) -> list[str]:
    """Go on to the end; what differs from the undisturbed tables, or failed."""
    for name in (by, "export") if by == "study" and known else (by,):
        ended = run(tree, outputs, command(name, outputs))
        if ended.code != 0:
            return [f"{name} ended with {ended.code}: {ended.said[-500:]}"]
    if not known:
        return []
    wanted = {name: value for name, value in known.tables.items()
              if by == "study" or name.startswith((f"{study.STUDY}/runs/", f"{study.STUDY}/prepared/"))}
    found = sums(outputs)
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
