"""Faults that the tests must notice: the list is whole, and two of them, drawn by the date, are noticed."""

import random
from datetime import date

import pytest

from tests import mutants
from tests.conftest import REPOSITORY

ALL = mutants.read()
TODAY = random.Random(date.today().isoformat()).sample(ALL, 2)


def test_every_mutant_has_its_place_and_its_test():
    assert len(ALL) >= 100 and len({(row["file"], row["line"], row["fault"]) for row in ALL}) == len(ALL)
    for row in ALL:
        source = (REPOSITORY / row["file"]).read_text(encoding="utf-8")
        assert source.split("\n").count(row["line"]) == 1, row
        path, _, name = row["test"].partition("::")
        test = name.partition("[")[0].rpartition("::")[2]
        assert row["fault"] != row["line"], row
        assert not test or f"def {test}(" in (REPOSITORY / path).read_text(encoding="utf-8"), row


def test_a_fault_that_changes_nothing_survives(tmp_path):
    harmless = next(row for row in ALL if row["file"] == "xbuslib/evaluation/metrics.py")
    tree = mutants.copy_tree(tmp_path)
    assert mutants.outcome(harmless | {"fault": harmless["line"] + "  # the same"}, tree) == mutants.SURVIVED


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return mutants.copy_tree(tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("mutant", TODAY, ids=lambda row: f"{row['file']}: {row['what']}")
def test_the_fault_is_noticed(mutant, tree):
    assert mutants.outcome(mutant, tree) == mutants.NOTICED
