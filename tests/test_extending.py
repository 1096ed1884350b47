"""docs/extending.md tells how to add a system: its code, as printed, trains and is scored."""

import re
import sys
import types

import pytest

from tests.conftest import REPOSITORY
from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.runs import record
from xbuslib.runs.fold import open_source, run_fold


def test_the_printed_system_works(phantom_root, outputs, monkeypatch):
    text = (REPOSITORY / "docs" / "extending.md").read_text()
    code, registration, *_ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.splitlines()) < 60
    module = types.ModuleType("xbuslib.models.promptlab")
    exec(compile(code, "promptlab.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = registry.Entry("PromptLab", "promptlab.PromptLab", ("clip", "resnet50"), registry.AT_SIZE)
    assert '"promptlab": Entry("PromptLab", "promptlab.PromptLab", ("clip", "resnet50"), AT_SIZE)' in registration
    monkeypatch.setitem(registry.REGISTRY, "promptlab", entry)
    config = resolve("smoke", {"iterations": 2})
    source = open_source("phantom", phantom_root, None, config, "s")
    summary = record.summary(run_fold("promptlab", 0, config, source, study="s"))
    assert list(zip(summary["policy"], summary["attributes"], strict=True)) == [("none", "metadata"), ("none", "none")]
    assert summary["dice"].between(0, 1).all()


@pytest.mark.parametrize("name", registry.names())
def test_one_smoke_fold_of_every_system(name, phantom_root, outputs):
    config = resolve("smoke", {"iterations": 2})
    source = open_source("phantom", phantom_root, None, config, "s")
    path = run_fold(name, 0, config, source, study="s")
    run, summary = record.read(path), record.summary(path)
    assert run["system"] == name and run["paper_name"] == registry.REGISTRY[name].paper
    assert summary["dice"].between(0, 1).all() and summary["fpr"].between(0, 1).all()
    pairs = [tuple(pair) for pair in run["scorings"]]
    assert list(zip(summary["policy"], summary["attributes"], strict=True)) == pairs
