"""Every dataset in one place: its loader, how tables name it, its licence and where it comes from."""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xbuslib.errors import StudyError, unknown
from xbuslib.files import lock, outputs_root, write_whole

if TYPE_CHECKING:
    import pandas as pd


class Dataset(NamedTuple):
    """One row of the catalogue."""

    label: str  # how titles and tables name it
    loader: str  # module of xbuslib.data whose load(root) gives the case table of cases.SCHEMA
    licence: str
    source: str  # where its files come from, for people
    simulated: bool = False
    patients: bool = True  # whether it records which images are of one patient


DATASETS = {
    # the phantom is written in BLU's own layout, so one loader reads both
    "phantom": Dataset("simulated phantom", "blu", "MIT", "made by this project: xbuslib data phantom",
                       simulated=True),
    "phantom_b": Dataset("simulated phantom of scanner B", "blu", "MIT", "made by this project: xbuslib data phantom "
                         "--scanner B --seed 2", simulated=True),
    "blu": Dataset("BLU", "blu", "CC BY 4.0", "xbuslib data download blu, or doi:10.7937/9WKK-Q141"),
    "busi": Dataset("BUSI", "busi", "CC BY 4.0",
                    "doi:10.1016/j.dib.2019.104863; unpack the archive Dataset_BUSI_with_GT", patients=False),
    "busbra": Dataset("BUS-BRA", "busbra", "CC BY 4.0",
                      "doi:10.5281/zenodo.8231412; unpack the archive with bus_data.csv, Images and Masks"),
    "own": Dataset("own data", "blu", "not stated", "files in the layout of BLU, see docs/how_to.md", patients=False),
}
JOIN = "+"  # "busbra+busi": both as one dataset
SCANNER_B_SEED = 2  # other patients than those of phantom (0) and of the cross-centre notebook (1)
SIZE_BINS = (110, 250)  # longest bounding-box side in original pixels; both edges in the lower bin (Table 2)


def dataset(name: str) -> Dataset:
    """The catalogue's row for `name`; of several names joined by "+", one row for all of them.

    Raises StudyError for an unknown name, or one that is there twice.
    """
    names = name.split(JOIN)
    for part in names:
        if part not in DATASETS:
            raise unknown("dataset", part, DATASETS)
    if len(set(names)) < len(names):
        raise StudyError(f"dataset {name!r} names a dataset twice")
    if len(names) == 1:
        return DATASETS[name]
    labels, loaders, licences, sources, simulated, patients = zip(*(DATASETS[part] for part in names), strict=True)
    return Dataset(" + ".join(labels), JOIN.join(loaders), ", ".join(dict.fromkeys(licences)), "; ".join(sources),
                   any(simulated), all(patients))


def load(name: str, root: Path | str) -> "pd.DataFrame":
    """Case table of dataset `name` found under `root`.

    Of several joined by "+", `root` holds a folder of each name; case_id and patient_id then begin with the name, and
    the column `dataset` holds it. What a dataset does not give (attributes, pixel size) is missing in its rows.
    attrs["left_out"], where a loader gives it, holds a sentence on the files that it left out.
    Raises StudyError for an unknown name, a missing folder or a faulty table.
    """
    row = dataset(name)
    if JOIN in name:
        return _joined({part: load(part, Path(root) / part) for part in name.split(JOIN)})
    if not Path(root).is_dir():
        raise StudyError(f"no folder {root} for dataset {name}; give its folder with --data. "
                         f"Where to get {row.label}: {row.source}")
    return import_module(f"xbuslib.data.{row.loader}").load(Path(root))


def _joined(tables: "dict[str, pd.DataFrame]") -> "pd.DataFrame":
    import pandas as pd

    from xbuslib.data.cases import validate

    parts = [table.assign(dataset=name, **{key: f"{name}_" + table[key] for key in ("case_id", "patient_id")})
             for name, table in tables.items()]
    joined = validate(pd.concat(parts, ignore_index=True), JOIN.join(tables))
    joined.attrs["left_out"] = [f"{name}: {sentence}" for name, table in tables.items()
                                for sentence in table.attrs.get("left_out", [])]
    return joined


def data_root(name: str, data: str | Path | None, phantom_cases: int) -> Path:
    """The dataset's folder: as given, or of its name in the folder XBUS_DATA, or the phantom, made on first use.

    Of several joined by "+": a folder that holds one of each name, as given or XBUS_DATA; where a phantom is among
    them, a folder of links, made on first use.
    """
    row = dataset(name)
    names = name.split(JOIN)
    if len(names) > 1:
        return _joined_root(names, data, phantom_cases)
    if data:
        return Path(data)
    if name == "phantom":
        return phantom_root(phantom_cases)
    if name == "phantom_b":
        return phantom_root(phantom_cases, SCANNER_B_SEED, "B")
    if not os.environ.get("XBUS_DATA"):
        raise StudyError(f"dataset {name} needs its folder: --data DIR (papermill: -p data DIR), or XBUS_DATA with a "
                         f"folder {name} in it. Where to get {row.label}: {row.source}")
    return Path(os.environ["XBUS_DATA"]) / name


def _joined_root(names: list[str], data: str | Path | None, phantom_cases: int) -> Path:
    place = Path(data or os.environ.get("XBUS_DATA") or "")
    roots = {name: place / name if (data or not DATASETS[name].simulated) and (place / name).is_dir()
             else data_root(name, "", phantom_cases) for name in names}
    if not any(DATASETS[name].simulated for name in names):
        return place
    folder = outputs_root() / "data" / f"{JOIN.join(names)}_n{phantom_cases}"
    with lock(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, root in roots.items():
            link = folder / name
            if link.is_symlink() and link.readlink() == root.resolve():
                continue  # others may be reading through it
            with write_whole(link) as partial:
                partial.symlink_to(root.resolve(), target_is_directory=True)
    return folder


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
    return dataset(name).label if set(name.split(JOIN)) <= DATASETS.keys() else name


def size_bins(sides: list[int]) -> dict[str, int]:
    """Numbers of lesions whose longest bounding-box side is ≤110, 111–250 and >250 original pixels (Table 2)."""
    low, high = SIZE_BINS
    return {f"<={low}": sum(s <= low for s in sides), f"{low + 1}-{high}": sum(low < s <= high for s in sides),
            f">{high}": sum(s > high for s in sides)}
