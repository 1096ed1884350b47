"""Shared fixtures: a small simulated phantom, and real data where it is at hand."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory):
    """20 simulated cases, as the smoke profile uses them."""
    from xbuslib.datasets import phantom

    return phantom.write(tmp_path_factory.mktemp("data") / "phantom", n=20, seed=0)


@pytest.fixture(scope="session")
def blu_root():
    """The published BLU archive; tests that need it skip where it is not at hand."""
    if not (REAL_DATA / "BLU").is_dir():
        pytest.skip("the real BLU data are not beside this checkout")
    return REAL_DATA / "BLU"


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """An outputs folder of this test's own."""
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Settings of the person who runs the tests must not decide their outcome."""
    for name in ("XBUS_WEIGHTS", "XBUS_DATA", "XBUS_GPUS"):
        monkeypatch.delenv(name, raising=False)
