"""The same picture under another name: equal pixels, and pictures that look alike.

Equal: the decoded grey values are the same, whatever the file's name and compression. Alike: a difference hash of
16 × 16 bits (each says whether a coarse pixel is brighter than its right neighbour) differs in at most 20 of 256 bits.
It is made of the picture alone, without its mask. A picture that is one grey over most of its width has no look to
compare (none among 1540 real ones): it is compared by its pixels only.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xbuslib.data.images import THREADS, read_grey
from xbuslib.errors import StudyError
from xbuslib.files import write_whole
from xbuslib.progress import track

SIDE = 16  # of the difference hash: 256 bits
ALIKE = 20  # bits in which pictures that look alike may differ
FLAT, EVEN = "flat", 96  # what stands for the hash of a picture with fewer than 96 of 256 steps from grey to grey
COLUMNS = ["case_id", "pixels", "looks"]
MIRRORED = "looks_mirrored"  # a further column: the hash of the picture seen in a mirror


def digest(image: np.ndarray) -> str:
    """32 hex digits of the SHA-256 over size and grey values of an (H, W) uint8 image."""
    return hashlib.sha256(str(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:32]


def difference_hash(image: np.ndarray) -> str:
    """64 hex digits: whether each of 16 × 17 coarse pixels of an (H, W) uint8 image is darker than its right one.

    FLAT where too few of them differ.
    """
    coarse = np.asarray(Image.fromarray(image).resize((SIDE + 1, SIDE), Image.Resampling.BILINEAR), np.int16)
    if np.count_nonzero(np.diff(coarse, axis=1)) < EVEN:
        return FLAT
    return np.packbits(coarse[:, 1:] > coarse[:, :-1]).tobytes().hex()  # (16, 16) bits


def pictures(cases: pd.DataFrame, kept: Path | None = None, fingerprint: str = "") -> pd.DataFrame:
    """case_id, pixels (`digest`) and looks (`difference_hash`; also MIRRORED) of every case's image at original size.

    `kept`: CSV file where they are kept for the images of this `fingerprint`, and read from.
    """
    if kept and kept.is_file():
        table = pd.read_csv(kept, dtype=str)
        same = set(table.get("fingerprint", ())) == {fingerprint} and list(table["case_id"]) == list(cases["case_id"])
        if same and MIRRORED in table:
            return table[[*COLUMNS, MIRRORED]]
    with ThreadPoolExecutor(THREADS) as pool:
        images = track(pool.map(read_grey, cases["image"]), "comparing pictures", len(cases))
        table = hashes(cases["case_id"], images)
    if kept:
        with write_whole(kept) as partial:
            table.assign(fingerprint=fingerprint).to_csv(partial, index=False)
    return table


def hashes(case_ids: Iterable[str], images: Iterable[np.ndarray]) -> pd.DataFrame:
    """The table of `pictures`, of (H, W) uint8 images in memory."""
    rows = [(str(case), digest(image), difference_hash(image), difference_hash(image[:, ::-1]))
            for case, image in zip(case_ids, images, strict=True)]
    return pd.DataFrame(rows, columns=[*COLUMNS, MIRRORED])


def pairs(first: pd.DataFrame, second: pd.DataFrame | None = None) -> pd.DataFrame:
    """Pairs of pictures that are equal or look alike: columns one, other (case_id) and bits (0 … 20; -1: equal).

    first, second: tables of `pictures`; without a second one, pairs within the first.
    """
    within, second = second is None, first if second is None else second
    if first.empty or second.empty:
        return pd.DataFrame({"one": [], "other": [], "bits": []})
    distance = _distance(first, second, _bits(second["looks"]))
    distance[first["pixels"].to_numpy()[:, None] == second["pixels"].to_numpy()] = -1
    close = distance <= ALIKE
    rows, columns = np.nonzero(np.triu(close, 1) if within else close)
    return pd.DataFrame({"one": first["case_id"].to_numpy()[rows], "other": second["case_id"].to_numpy()[columns],
                         "bits": distance[rows, columns]})


def within(table: pd.DataFrame) -> pd.DataFrame:
    """`with_mirrored` of one dataset."""
    return with_mirrored(table)


def between(one: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The repeated pictures of two datasets, as `described` has them; one, other: their case tables."""
    return described(one, with_mirrored(pictures(one), pictures(other)), other)


def with_mirrored(first: pd.DataFrame, second: pd.DataFrame | None = None) -> pd.DataFrame:
    """`pairs`, with the column mirrored, and below them those that look alike if one is mirrored.

    Only the last table given needs the column MIRRORED.
    """
    direct, other = pairs(first, second), first if second is None else second
    close = _distance(first, other, _bits(other[MIRRORED]))
    rows, columns = np.nonzero(np.triu(close <= ALIKE, 1) if second is None else close <= ALIKE)
    flipped = pd.DataFrame({"one": first["case_id"].to_numpy()[rows], "other": other["case_id"].to_numpy()[columns],
                            "bits": close[rows, columns]})
    known = set(zip(direct["one"], direct["other"], strict=True))
    new = [pair not in known for pair in zip(flipped["one"], flipped["other"], strict=True)]
    return pd.concat([direct.assign(mirrored=False), flipped[new].assign(mirrored=True)], ignore_index=True)


def groups(cases: pd.DataFrame, found: pd.DataFrame) -> pd.Series:
    """Who must share a fold: the patient of each case, and one of them for all patients whose pictures are repeated.

    found: pairs of these cases (`within`). Without repeats these are the patients as they are.
    """
    place = pd.Series(np.arange(len(cases)), index=cases["case_id"].to_numpy())
    patient = pd.factorize(cases["patient_id"])[0]
    one, other = (patient[place[found[side]].to_numpy(int)] for side in ("one", "other"))
    n = patient.max() + 1 if len(cases) else 0
    _, joined = connected_components(coo_array((np.ones(len(one)), (one, other)), shape=(n, n)), directed=False)
    first = pd.Series(cases["patient_id"].to_numpy()).groupby(joined[patient]).transform("first")
    return first.set_axis(cases.index)


def described(cases: pd.DataFrame, found: pd.DataFrame, others: pd.DataFrame | None = None) -> pd.DataFrame:
    """The pairs of `within` in words (equal pixels, alike, mirrored), with patient, class and image file of both.

    others: the case table of the second ones, where they are another dataset's.
    """
    tables = {"one": cases.set_index("case_id"), "other": (cases if others is None else others).set_index("case_id")}
    facts = {f"{side}_{name}": rows.loc[found[side], column].to_numpy() for side, rows in tables.items()
             for name, column in (("patient", "patient_id"), ("class", "pathology"), ("image", "image"))}
    what = np.select([found["bits"] < 0, found["mirrored"].astype(bool)], ["equal pixels", "mirrored"], "alike")
    return found.drop(columns="mirrored").assign(bits=found["bits"].clip(lower=0).astype(int), what=what, **facts)


def _distance(first: pd.DataFrame, second: pd.DataFrame, bits: np.ndarray) -> np.ndarray:
    """(n, m) bits in which the looks of `first` and `bits`, the (m, 256) looks of `second`, differ."""
    a = _bits(first["looks"])
    distance = np.rint(a.sum(1)[:, None] + bits.sum(1) - 2 * a @ bits.T).astype(int)
    flat = (first["looks"] == FLAT).to_numpy()[:, None] | (second["looks"] == FLAT).to_numpy()
    distance[flat] = ALIKE + 1
    return distance


def _bits(looks: pd.Series) -> np.ndarray:
    """(n, 256) float32 of zeros and ones."""
    try:
        return np.array([np.unpackbits(np.frombuffer(bytes(SIDE * SIDE // 8) if text == FLAT else bytes.fromhex(text),
                                                     np.uint8)) for text in looks], np.float32).reshape(-1, SIDE**2)
    except (TypeError, ValueError) as error:
        raise StudyError(f"this is no table of picture hashes: {error}") from None
