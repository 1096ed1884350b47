"""docs/extending.md tells how to add a system: its code, as printed, trains and is scored."""

import re

import pytest

from tests.conftest import REPOSITORY
from xbuslib import models, runs, study
from xbuslib.config import resolve


def test_the_printed_system_works(phantom_root, outputs, monkeypatch):
    text = (REPOSITORY / "docs" / "extending.md").read_text()
    code, registration, *_ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) < 60
    made = {}
    exec(compile(code, "promptlab.py", "exec"), made)
    entry = models.Entry("PromptLab", ("clip", "resnet50"), models._at_size(made["PromptLab"]))
    assert 'REGISTRY["promptlab"] = Entry("PromptLab", ("clip", "resnet50"), _at_size(PromptLab))' in registration
    monkeypatch.setitem(models.REGISTRY, "promptlab", entry)
    config = resolve("smoke", {"iterations": 2})
    source = study.open_source("phantom", phantom_root, None, config, "s")
    summary = runs.summary(study.run_fold("promptlab", 0, config, source, study="s"))
    assert list(zip(summary["policy"], summary["attributes"], strict=True)) == [("none", "metadata"), ("none", "none")]
    assert summary["dice"].between(0, 1).all()


@pytest.mark.parametrize("name", models.names())
def test_one_smoke_fold_of_every_system(name, phantom_root, outputs):
    config = resolve("smoke", {"iterations": 2})
    source = study.open_source("phantom", phantom_root, None, config, "s")
    path = study.run_fold(name, 0, config, source, study="s")
    run, summary = runs.read(path), runs.summary(path)
    assert run["system"] == name and run["paper_name"] == models.REGISTRY[name].paper
    assert summary["dice"].between(0, 1).all() and summary["fpr"].between(0, 1).all()
    pairs = [tuple(pair) for pair in run["scorings"]]
    assert list(zip(summary["policy"], summary["attributes"], strict=True)) == pairs
