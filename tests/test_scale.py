"""Work that grows: pictures pass through memory one by one, larger files open, and a table says what a case costs."""

import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from xbuslib.data import catalogue, images
from xbuslib.errors import StudyError
from xbuslib.evaluation import statistics

PICTURE = (1024, 1024)  # 1 MB each
SMALL = """
import resource
from pathlib import Path
import numpy as np
from xbuslib.data import images
now = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (now + 64 * 2**20,) * 2)  # of its own memory; a read-only map is none
"""


def in_small_memory(code):
    return subprocess.run([sys.executable, "-c", SMALL + code], cwd=REPOSITORY, capture_output=True, text=True,
                          check=False)


# ---- files larger than memory -----------------------------------------------------------------------------------


def test_pictures_beyond_memory_are_stored_and_looked_into(tmp_path):
    """128 MB of pictures with 64 MB to work in; numpy's own reader has not got enough."""
    folder = f"Path({str(tmp_path)!r})"
    write = in_small_memory(f"images._store({folder}, ({{'images': np.full({PICTURE}, i, np.uint8)}} "
                            "for i in range(128)), 128)")
    assert write.returncode == 0, write.stderr
    look = in_small_memory(f"pictures = np.load({folder} / 'images.npy', mmap_mode='r')\n"
                           "print(pictures.shape, pictures[[3, 127], 5, 7], pictures[100].mean())")
    assert look.stdout.strip() == "(128, 1024, 1024) [  3 127] 100.0", look.stderr
    whole = in_small_memory(f"np.load({folder} / 'images.npy')")
    assert "MemoryError" in whole.stderr


def test_a_damaged_folder_is_refused(phantom_root, tmp_path):
    folder = tmp_path / "p"
    images.prepare(catalogue.load("phantom", phantom_root), 32, folder)
    content = (folder / "images.npy").read_bytes()
    (folder / "images.npy").write_bytes(content[:-30])
    with pytest.raises(StudyError, match=f"{folder} is damaged.*delete it"):
        images.read(folder)
    (folder / "images.npy").unlink()
    with pytest.raises(StudyError, match=f"{folder} is damaged.*delete it"):
        images.read(folder)


# ---- the prepared images ----------------------------------------------------------------------------------------


def test_prepared_in_blocks_is_each_case_decoded(phantom_root, tmp_path, monkeypatch):
    """Blocks smaller than the dataset, the last one not full, against decoding case by case."""
    monkeypatch.setattr(images, "BLOCK", 3)
    table = catalogue.load("phantom", phantom_root)
    prepared = images.prepare(table, 64, tmp_path / "p")
    assert prepared.case_ids.tolist() == table["case_id"].tolist()
    for position, row in enumerate(table.itertuples()):
        for name, value in images.decode(row.image, images.mask_files(row), 64).items():
            np.testing.assert_array_equal(getattr(prepared, name)[position], value)
    assert not prepared.images.flags.writeable and not prepared.masks.flags.writeable
    cases = images.case_table(table, prepared)
    np.testing.assert_allclose(cases["lesion_fraction"], prepared.masks.mean(axis=(1, 2)), atol=5e-7)


# ---- tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [7, 60, 251])
def test_bootstrap_in_portions_is_the_bootstrap(n, monkeypatch):
    """All draws at once, as the seed's stream gives them, and whatever fits in memory: the same to the last bit."""
    difference = np.random.default_rng(1).normal(size=n)
    drawn = np.random.default_rng(0).integers(n, size=(statistics.RESAMPLES, n))
    expected = tuple(np.quantile(difference[drawn].mean(axis=1), (0.025, 0.975)))
    for draws in (2**22, 50 * n, 1):
        monkeypatch.setattr(statistics, "DRAWS", draws)
        assert statistics.interval(difference) == pytest.approx(expected, rel=1e-12)


# ---- the benchmark ----------------------------------------------------------------------------------------------


def test_slope_tells_a_fixed_cost_from_one_per_case_and_from_one_per_pair():
    from benchmarks import scale

    cost = {"fixed": lambda n: 3.0, "per case": lambda n: 1e-3 * n, "per pair": lambda n: 1e-6 * n**2}
    found = scale.slopes([{"stage": stage, "cases": n, "seconds": seconds(n)} for stage, seconds in cost.items()
                          for n in (250, 2500, 25000)])
    assert {row["stage"]: round(row["slope"], 6) for row in found} == {"fixed": 0, "per case": 1, "per pair": 2}
    assert scale.slopes([{"stage": "one", "cases": 9, "seconds": 1.0}])[0]["slope"] is None


def test_linked_phantom_is_a_dataset_that_every_stage_reads(outputs, monkeypatch):
    """More cases than are simulated, so that names share files; the stages that train nothing."""
    from benchmarks import scale

    monkeypatch.setattr(scale, "SIMULATED", 10)
    scale.make(outputs / "data", 25)
    table = catalogue.load("phantom", outputs / "data")
    assert len(table) == 25 and table["case_id"].is_unique
    assert table["pathology"].tolist()[:10] == table["pathology"].tolist()[10:20]
    for stage in ("load the case table", "prepare (decode)", "open again", "split into folds", "prompts of a fold",
                  "score a fold"):
        row = scale.measure(stage, 25, 64, outputs)
        assert row["cases"] == 25 and row["seconds"] > 0 and row["bytes_per_case"] >= 0
        assert row["ms_per_case"] == pytest.approx(1e3 * row["seconds"] / 25)
    prepared = images.read(outputs / "scale" / "prepared" / "phantom_64")
    assert np.array_equal(prepared.images[0], prepared.images[10])
