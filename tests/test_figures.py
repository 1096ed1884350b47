"""Figures: one style, saved with their numbers, the same bytes for the same numbers, and nothing overlapping."""

import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from xbuslib.analyses import anatomy, exploration
from xbuslib.analyses.prompts import figures
from xbuslib.config import resolve
from xbuslib.data import catalogue
from xbuslib.display import style
from xbuslib.display.tables import save_table
from xbuslib.files import REPOSITORY
from xbuslib.models import registry


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        return registry.build("xbusnet", resolve("paper", {"weights": "random"})).eval()


def test_save_writes_png_pdf_and_numbers(tmp_path):
    numbers = pd.DataFrame({"x": [1, 2], "y": [3, 4]})
    figure, axis = style.subplots(size=(3, 2))
    axis.plot(numbers["x"], numbers["y"])
    assert not plt.get_fignums()  # closed: a notebook shows it once
    written = style.save(figure, tmp_path / "a", "line", numbers)
    assert [path.name for path in written] == ["line.png", "line.pdf", "line.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(written[2]), numbers)
    assert Image.open(written[0]).info["dpi"][0] == pytest.approx(style.RESOLUTION, abs=1)
    again = style.save(figure, tmp_path / "b", "line", numbers)
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]


def test_tables_keep_a_named_index(tmp_path):
    table = pd.DataFrame({"n": [1]}, index=pd.Index(["a"], name="key"))
    assert save_table(table, tmp_path, "t").read_text() == "key,n\na,1\n"


@pytest.mark.parametrize("notebook", ["05_overall_performance", "06_size_stratified", "07_ablations", "08_qualitative",
                                      "10_paper_audit"])
def test_what_only_reads_run_folders_imports_no_torch(notebook):
    cells = json.loads((REPOSITORY / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    source = next(text for text in code if "import" in text)
    imports = "".join(line for line in source.splitlines(keepends=True) if not line.startswith("notebooks.begin("))
    code = f"{imports}\nimport sys\nprint([name for name in ('torch', 'xbuslib.display') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['xbuslib.display']"


def test_the_phantom_is_called_simulated():
    assert "simulated" in catalogue.label("phantom") and catalogue.label("blu") == "BLU"


def test_figure_1_reads_the_model_and_its_texts_fit(paper):
    shapes = anatomy.trace_meta(paper, 352)
    assert shapes["tokens"] == (1, 3, 484, 768) and shapes["lfe.block5"] == (1, 2048, 11, 11)
    figure = anatomy.architecture(paper, shapes)
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    text = "\n".join(text.get_text() for text in texts)
    for number in ("1.69 M", "141.13 M", "0.17 M", "149.84 M", "2048×11×11", "64×352×352", "96 ch."):
        assert number in text
    assert overlaps(figure, texts) == []


def test_the_trace_leaves_no_hooks(paper):
    anatomy.trace_meta(paper, 352)
    assert not any(module._forward_hooks for module in paper.modules())


def test_token_chips_fit():
    figure = figures.token_chips({"released": ["tumor", "approximately", "1", "3", "9", "×", "1"] * 6,
                                          "global": ["a", "small", "le", "sion"]})
    assert overlaps(figure, figure.axes[0].texts) == []


def test_size_histogram_counts_the_bins_of_table_2():
    sizes = pd.DataFrame({"long_side_px": [110, 111, 250, 251], "long_side_mm": [1.0, 2.0, np.nan, 3.0],
                          "pathology": ["benign", "malignant", "benign", "benign"]})
    figure = exploration.size_histograms(sizes, "test")
    assert [text.get_text().split("n = ")[1] for text in figure.axes[0].texts] == ["1", "2", "1"]


def overlaps(figure, texts) -> list[tuple[str, str]]:
    """Pairs of texts whose drawn boxes overlap."""
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    return [(a.get_text(), b.get_text()) for i, a in enumerate(texts) for j, b in enumerate(texts[:i])
            if boxes[i].overlaps(boxes[j])]
