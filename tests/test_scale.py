"""Work that grows: pictures pass through memory one by one, larger files open, and a table says what a case costs."""

import dataclasses
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from xbuslib.data import arrays, catalogue, images
from xbuslib.errors import StudyError
from xbuslib.evaluation import statistics

PICTURE = (1024, 1024)  # 1 MB each
SMALL = """
import resource
from pathlib import Path
import numpy as np
from xbuslib import npz
now = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (now + 64 * 2**20,) * 2)  # of its own memory; a read-only map is none
"""


def rows(n):
    rng = np.random.default_rng(0)
    return [{"images": rng.integers(0, 256, (8, 9), np.uint8), "masks": rng.random((8, 9)) > 0.5,
             "boxes": rng.integers(0, 9, 2), "long_sides": np.array(i)} for i in range(n)]


def in_small_memory(code):
    return subprocess.run([sys.executable, "-c", SMALL + code], cwd=REPOSITORY, capture_output=True, text=True,
                          check=False)


# ---- files larger than memory -----------------------------------------------------------------------------------


def test_numpy_reads_what_is_written_row_by_row(tmp_path):
    given = rows(5)
    arrays.write(tmp_path / "a.npz", iter(given), 5, case_ids=np.array(list("abcde")), fingerprint=np.array("f"))
    with np.load(tmp_path / "a.npz") as held:
        assert sorted(held.files) == ["boxes", "case_ids", "fingerprint", "images", "long_sides", "masks"]
        for name in given[0]:
            assert np.array_equal(held[name], np.stack([row[name] for row in given]))
            assert held[name].dtype == given[0][name].dtype
        assert held["case_ids"].tolist() == list("abcde") and str(held["fingerprint"]) == "f"
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("save, mapped", [(np.savez, True), (np.savez_compressed, False)])
def test_what_numpy_wrote_is_read_and_mapped_where_it_is_not_compressed(tmp_path, save, mapped):
    given = {name: np.stack([row[name] for row in rows(5)]) for name in rows(1)[0]}
    save(tmp_path / "a.npz", **given)
    read = arrays.read(tmp_path / "a.npz")
    assert all(np.array_equal(read[name], given[name]) for name in given)
    assert read["images"].flags.writeable != mapped and read["boxes"].flags.writeable


def test_a_file_beyond_memory_is_written_and_looked_into(tmp_path):
    """128 MB of pictures with 64 MB to work in; numpy's own reader has not got enough."""
    path = tmp_path / "large.npz"
    write = in_small_memory(f"npz.write(Path({str(path)!r}), ({{'images': np.full({PICTURE}, i, np.uint8)}} "
                            "for i in range(128)), 128)")
    assert write.returncode == 0, write.stderr
    look = in_small_memory(f"pictures = arrays.read(Path({str(path)!r}))['images']\n"
                           "print(pictures.shape, pictures[[3, 127], 5, 7], pictures[100].mean())")
    assert look.stdout.strip() == "(128, 1024, 1024) [  3 127] 100.0", look.stderr
    whole = in_small_memory(f"np.load({str(path)!r})['images']")
    assert "MemoryError" in whole.stderr


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "p.npz"
    arrays.write(path, iter(rows(5)), 5)
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(StudyError, match="p.npz is damaged.*delete it"):
        images.read(path)
    with zipfile.ZipFile(path, "w") as held:
        held.writestr("images.npy", content[content.index(b"\x93NUMPY"):][:200])  # a header, and too little behind it
    with pytest.raises(ValueError, match="cut short|EOF"):
        arrays.read(path)


# ---- the prepared images ----------------------------------------------------------------------------------------


def test_prepared_in_blocks_is_each_case_decoded(phantom_root, tmp_path, monkeypatch):
    """Blocks smaller than the dataset, the last one not full, against decoding case by case."""
    monkeypatch.setattr(images, "BLOCK", 3)
    table = catalogue.load("phantom", phantom_root)
    prepared = images.prepare(table, 64, tmp_path / "p.npz")
    assert prepared.case_ids.tolist() == table["case_id"].tolist()
    for position, row in enumerate(table.itertuples()):
        for name, value in images.decode(row.image, images.mask_files(row), 64).items():
            np.testing.assert_array_equal(getattr(prepared, name)[position], value)
    assert not prepared.images.flags.writeable and not prepared.masks.flags.writeable
    cases = images.case_table(table, prepared)
    np.testing.assert_allclose(cases["lesion_fraction"], prepared.masks.mean(axis=(1, 2)), atol=5e-7)


def test_a_file_prepared_in_one_piece_stays_valid(phantom_root, tmp_path):
    """As numpy.savez wrote it before: the same fingerprint, so it is read and not made again."""
    table, path = catalogue.load("phantom", phantom_root), tmp_path / "old.npz"
    new = images.prepare(table, 64, tmp_path / "new.npz")
    np.savez(path, **dataclasses.asdict(new))
    written = path.stat().st_mtime_ns
    old = images.prepare(table, 64, path)
    assert path.stat().st_mtime_ns == written and old.fingerprint == new.fingerprint
    assert all(np.array_equal(value, getattr(old, name), equal_nan=name == "centroids")
               for name, value in dataclasses.asdict(new).items())


# ---- tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [7, 60, 251])
def test_bootstrap_in_portions_is_the_bootstrap(n, monkeypatch):
    """All draws at once, as the seed's stream gives them, and whatever fits in memory: the same to the last bit."""
    difference = np.random.default_rng(1).normal(size=n)
    drawn = np.random.default_rng(0).integers(n, size=(statistics.RESAMPLES, n))
    expected = tuple(np.quantile(difference[drawn].mean(axis=1), (0.025, 0.975)))
    for draws in (2**22, 50 * n, 1):
        monkeypatch.setattr(statistics, "DRAWS", draws)
        assert statistics.interval(difference) == expected


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
    prepared = images.read(outputs / "scale" / "prepared" / "phantom_64.npz")
    assert np.array_equal(prepared.images[0], prepared.images[10])
