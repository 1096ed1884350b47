"""The paper profile is the paper's protocol; overrides are checked."""

import re

import pytest

from tests.conftest import REPOSITORY
from xbuslib import config
from xbuslib.errors import StudyError
from xbuslib.training import recipes


def test_paper_profile_is_section_2_3():
    c = config.resolve("paper")
    assert (c.recipe, c.image_size, c.folds, c.weights) == ("uniform", 352, 5, "pretrained")
    assert (c.threshold, c.first_pass_threshold) == (0.5, 0.30)
    plan = recipes.plan("xbusnet", c, 202)
    assert (plan.iterations, plan.batch_size, plan.rates["other"], plan.amp) == (1000, 4, 1e-4, True)


def test_overrides():
    c = config.resolve("paper", ["iterations=400", "weights=partial", "amp=false", "learning_rate=3e-4"])
    assert (c.iterations, c.weights, c.amp, c.learning_rate) == (400, "partial", False, 3e-4)


@pytest.mark.parametrize("override, message", [
    ("iteratons=4", "iteratons: no such setting"), ("iterations=-1", "iterations: .*greater than or equal to 0"),
    ("image_size=100", "image_size: .*multiple of 32"), ("iterations", "not of the form key=value"),
    ("recipe=best", "recipe: .*'uniform', 'official' or 'strong'"),
    ("weights=best", "weights: .*'pretrained', 'partial' or 'random'"),
    ("iterations=yes", "iterations: .*true and false are not values of this setting"),
])
def test_faulty_overrides(override, message):
    with pytest.raises(StudyError, match=message):
        config.resolve("quick", [override])


def test_unknown_profile():
    with pytest.raises(StudyError, match="unknown profile 'fast'; the profiles are paper, quick, smoke"):
        config.resolve("fast")


def test_every_setting_stands_in_the_reference():
    page = (REPOSITORY / "docs" / "reference.md").read_text(encoding="utf-8")
    rows = [line for line in page.split("## Settings")[1].split("## Files")[0].splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in rows)))
    assert named == set(config.Config.model_fields) - {"profile"}
