"""bfloat16 only where the hardware multiplies it: elsewhere it is emulated, far slower than float32."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xbuslib.models import precision


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


def test_attention_with_dropout_multiplies_in_bfloat16():
    """On CPUs it has no kernel of its own; torch would widen what it is given."""
    multiplied = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.bmm.default:
                multiplied.append(args[0].dtype)
            return function(*args, **(kwargs or {}))

    q = torch.randn(2, 3, 5, 4, dtype=torch.bfloat16)
    with precision.autocast(True, torch.device("cpu")), Watch():
        torch.nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.1)
    assert multiplied == [torch.bfloat16] * 2
