"""The fast way to train gives the numbers of the plain way (benchmarks/procedures.py has both)."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import torch

from benchmarks import procedures
from benchmarks.step import held_gb
from tests.conftest import REPOSITORY
from xbuslib.config import resolve
from xbuslib.inference.predict import encode
from xbuslib.models import layers_cpu, precision
from xbuslib.prompts.conditioning import TextTable
from xbuslib.runs.source import open_source

CPU = torch.device("cpu")
PROMPTED = ["xbusnet", "cliptnseg", "bussam"]


@pytest.fixture(scope="module")
def make_bench(tmp_path_factory, phantom_root):
    """Benches of the smoke profile in float32, on the embedded phantom."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(tmp_path_factory.mktemp("out")))
        config = resolve("smoke", ["amp=false"])
        source = open_source("phantom", phantom_root, None, config, "fast-path")
    return lambda name: procedures.bench(name, config, source, CPU)


@pytest.fixture(autouse=True)
def torchs_dropout(monkeypatch):
    """Both ways drop the same elements: ours draws other bits (tests/test_layers.py tests it)."""
    monkeypatch.setattr(layers_cpu.Dropout, "forward", torch.nn.Dropout.forward)


def losses(step, n: int) -> torch.Tensor:
    torch.manual_seed(0)  # dropout
    return torch.stack([step() for _ in range(n)])


@pytest.mark.parametrize("name", ["unet", *PROMPTED])
def test_three_steps_in_float32_equal_the_plain_ones(name, make_bench):
    """Kept features, channels_last and a fused optimiser reorder sums, and change nothing else."""
    bench = make_bench(name)
    fast, plain = bench, replace(bench, system=copy.deepcopy(bench.system))
    torch.testing.assert_close(losses(procedures.our_step(fast), 3), losses(procedures.reference_step(plain), 3),
                               rtol=1e-4, atol=1e-5)
    start = make_bench(name).system.state_dict()
    moved = max((value - start[key]).abs().max().item() for key, value in fast.system.state_dict().items()
                if value.is_floating_point() and "running" not in key)
    assert moved > 1e-4  # there was something to compare


@pytest.mark.skipif(not precision.has_bfloat16("cpu"), reason="this processor has no bfloat16")
def test_three_steps_in_bfloat16_stay_near_the_plain_ones(make_bench):
    bench = make_bench("xbusnet")
    mixed = replace(bench, system=copy.deepcopy(bench.system), plan=replace(bench.plan, amp=True))
    torch.testing.assert_close(losses(procedures.our_step(mixed), 3), losses(procedures.reference_step(bench), 3),
                               rtol=2e-2, atol=0)  # bfloat16 keeps eight bits: 0.4 % a rounding


@pytest.mark.parametrize("name", PROMPTED)
def test_kept_features_are_those_of_the_encoder_to_the_bit(name, make_bench):
    bench = make_bench(name)
    n = bench.plan.config.prediction_batch
    pictures = torch.from_numpy(bench.prepared.images[bench.rows[:n]])[:, None]
    with torch.no_grad():
        assert torch.equal(encode(bench.system, pictures, bench.plan, CPU),
                           bench.system.encode_images(pictures.float() / 255))
        if "local_text" in bench.system.prompts:
            texts = ["oval shape", "irregular shape"]
            kept = TextTable(bench.system, CPU)
            assert torch.equal(kept(texts + texts)[2:], bench.system.encode_texts(sorted(texts))[[1, 0]].float())


def test_recomputing_the_fusion_head_saves_memory_and_changes_no_number(make_bench):
    bench = make_bench("xbusnet")
    spared = replace(bench, system=copy.deepcopy(bench.system))
    spared.system.recompute = True
    usual, sparing = procedures.our_step(bench), procedures.our_step(spared)
    assert torch.equal(losses(usual, 2), losses(sparing, 2))
    for one, other in zip(bench.system.parameters(), spared.system.parameters(), strict=True):
        assert torch.equal(one, other)
    maps = 4 * 32 * 64 * 64 * 4  # bytes of one map of 32 channels at full size, batch 4
    assert held_gb(bench.system, usual) - held_gb(spared.system, sparing) > 8 * maps / 1e9  # of twelve that are kept


def test_the_command_measures_both_ways_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "benchmarks.step", "--systems", "xbusnet", "--profile", "quick",
                           "--size", "32", "--steps", "1", "--json", "--out", str(tmp_path / "step.csv")],
                          capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    row, = json.loads(done.stdout[done.stdout.index("["):])
    assert {"system", "step_s", "reference_step_s", "ratio", "matmul_share", "peak_memory_gb"} <= row.keys()
    assert row["ratio"] == pytest.approx(row["step_s"] / row["reference_step_s"])
    assert row["matmul_share"] == pytest.approx(row["tflop"] / row["step_s"] / row["matmul_tflop_s"])
    written = pd.read_csv(tmp_path / "step.csv")
    assert {"device", "commit", "torch", "size", "batch"} <= set(written.columns) and len(written) == 1
