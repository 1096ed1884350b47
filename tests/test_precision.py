"""bfloat16 only where the hardware multiplies it: elsewhere it is emulated, far slower than float32."""

import pytest
import torch

from xbuslib import precision


@pytest.fixture(autouse=True)
def forget():
    precision.has_bfloat16.cache_clear()
    yield
    precision.has_bfloat16.cache_clear()


def pretend(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16", "bf16"])
def test_bfloat16_on_a_processor_that_has_it(monkeypatch, instruction):
    pretend(monkeypatch, **{instruction: True})
    cpu = torch.device("cpu")
    assert precision.name(True, cpu) == "bfloat16" and precision.name(False, cpu) == "float32"
    with precision.autocast(True, cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_float32_on_a_processor_without(monkeypatch):
    pretend(monkeypatch, avx2=True, avx512_bf16=False)
    cpu = torch.device("cpu")
    assert precision.name(True, cpu) == "float32"
    with precision.autocast(True, cpu):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_a_torch_that_does_not_tell_gets_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision.name(True, torch.device("cpu")) == "float32"


def test_a_run_says_which(smoke_study):
    expected = precision.name(True, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert smoke_study.facts["precision"] == expected
