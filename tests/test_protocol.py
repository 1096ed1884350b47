"""The numbers of each system after two steps of training: when they change, the protocol number must be raised.

Where the change is meant: raise PROTOCOL in xbuslib/runs/identity.py and write the numbers anew with
`python -m tests.test_protocol`.
"""

import json
import os
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from xbuslib.config import resolve
from xbuslib.models import registry
from xbuslib.runs import identity, record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source

KEPT = Path(__file__).with_name("protocol_numbers.json")
SETTINGS = ["iterations=2", "amp=false"]  # float32: bfloat16 is not on every machine


def numbers(system: str) -> dict[str, float]:
    """Losses of two steps, and the mean and spread of the probability maps of fold 0 after them."""
    config = resolve("smoke", SETTINGS)
    source = open_source("phantom", None, None, config, "protocol")
    folder = run_fold(system, 0, config, source, study="protocol")
    losses = pd.read_csv(folder / "history.csv")["loss"]
    maps = pd.Series([value for one in record.probabilities(folder).values() for value in one.ravel()])
    return {"loss 1": losses[0], "loss 2": losses[1], "mean": maps.mean(), "sd": maps.std()}


@pytest.fixture(scope="module")
def kept():
    return json.loads(KEPT.read_text())


@pytest.fixture(scope="module", autouse=True)
def own_outputs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(tmp_path_factory.mktemp("protocol")))
        yield


def test_the_numbers_are_of_this_protocol(kept):
    assert kept["protocol"] == identity.PROTOCOL, "write the numbers anew: python -m tests.test_protocol"
    assert kept["systems"].keys() == registry.REGISTRY.keys()


@pytest.mark.parametrize("system", registry.REGISTRY)
def test_a_change_of_numbers_asks_for_a_new_protocol_number(system, kept):
    """The first loss is of the untrained network; what follows has been through the optimiser, whose first steps
    have the size of the learning rate however small a gradient is, so that other processors differ by more."""
    found, wanted = numbers(system), kept["systems"][system]
    assert found["loss 1"] == pytest.approx(wanted["loss 1"], abs=1e-4), "raise PROTOCOL in xbuslib/runs/identity.py"
    assert found == pytest.approx(wanted, abs=4e-3), "raise PROTOCOL in xbuslib/runs/identity.py"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XBUS_OUTPUTS"] = folder
        found = {system: {key: round(float(value), 6) for key, value in numbers(system).items()}
                 for system in registry.REGISTRY}
    KEPT.write_text(json.dumps({"protocol": identity.PROTOCOL, "systems": found}, indent=1) + "\n")
