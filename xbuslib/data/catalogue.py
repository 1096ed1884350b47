"""Every dataset in one place: its loader, how tables name it, its licence and where it comes from."""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xbuslib.errors import StudyError, unknown
from xbuslib.files import lock, outputs_root

if TYPE_CHECKING:
    import pandas as pd


class Dataset(NamedTuple):
    """One row of the catalogue."""

    label: str  # how titles and tables name it
    loader: str  # module of xbuslib.data whose load(root) gives the case table of cases.SCHEMA
    licence: str
    source: str  # where its files come from, for people
    simulated: bool = False


DATASETS = {
    # the phantom is written in BLU's own layout, so one loader reads both
    "phantom": Dataset("simulated phantom", "blu", "MIT", "made by this project: xbuslib data phantom",
                       simulated=True),
    "blu": Dataset("BLU", "blu", "CC BY 4.0", "xbuslib data download blu, or doi:10.7937/9WKK-Q141"),
    "busi": Dataset("BUSI", "busi", "CC BY 4.0",
                    "doi:10.1016/j.dib.2019.104863; unpack the archive Dataset_BUSI_with_GT"),
    "busbra": Dataset("BUS-BRA", "busbra", "CC BY 4.0",
                      "doi:10.5281/zenodo.8231412; unpack the archive with bus_data.csv, Images and Masks"),
}
SIZE_BINS = (110, 250)  # longest bounding-box side in original pixels; both edges in the lower bin (Table 2)


def dataset(name: str) -> Dataset:
    """The catalogue's row for `name`. Raises StudyError for an unknown one."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]


def load(name: str, root: Path | str) -> "pd.DataFrame":
    """Case table of dataset `name` found under `root`.

    Raises StudyError for an unknown name, a missing folder or a faulty table.
    """
    row = dataset(name)
    if not Path(root).is_dir():
        raise StudyError(f"no folder {root} for dataset {name}; give its folder with --data. "
                         f"Where to get {row.label}: {row.source}")
    return import_module(f"xbuslib.data.{row.loader}").load(Path(root))


def data_root(name: str, data: str | Path | None, phantom_cases: int) -> Path:
    """The dataset's folder: as given, or of its name in the folder XBUS_DATA, or the phantom, made on first use."""
    row = dataset(name)
    if data:
        return Path(data)
    if name == "phantom":
        return phantom_root(phantom_cases)
    if not os.environ.get("XBUS_DATA"):
        raise StudyError(f"dataset {name} needs its folder: --data DIR (papermill: -p data DIR), or XBUS_DATA with a "
                         f"folder {name} in it. Where to get {row.label}: {row.source}")
    return Path(os.environ["XBUS_DATA"]) / name


def phantom_root(n: int, seed: int = 0, scanner: str = "A") -> Path:
    """The folder of n simulated phantom cases, made on first use."""
    from xbuslib.data.phantom import phantom

    other = "" if (seed, scanner) == (0, "A") else f"_scanner{scanner}_seed{seed}"
    root = outputs_root() / "data" / f"phantom_n{n}{other}"
    with lock(root):
        if not root.is_dir():
            phantom.write(root, n=n, seed=seed, scanner=scanner)
    return root


def label(name: str) -> str:
    """How titles name a dataset: "phantom" is always called simulated. An unknown name stands for itself."""
    return DATASETS[name].label if name in DATASETS else name


def size_bins(sides: list[int]) -> dict[str, int]:
    """Numbers of lesions whose longest bounding-box side is ≤110, 111–250 and >250 original pixels (Table 2)."""
    low, high = SIZE_BINS
    return {f"<={low}": sum(s <= low for s in sides), f"{low + 1}-{high}": sum(low < s <= high for s in sides),
            f">{high}": sum(s > high for s in sides)}
