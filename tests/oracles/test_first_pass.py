"""Section 2.7: the first pass, the words of both prompts, and what each policy may know, from files to scores."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from oracles import painted
from oracles.painted import about, largest_region, measured, place_of, size_class, thirds
from xbuslib.config import resolve
from xbuslib.prompts import words
from xbuslib.runs.fold import run_fold
from xbuslib.runs.record import probabilities
from xbuslib.runs.source import open_source
from xbuslib.runs.trained import Trained
from xbuslib.training import recipes

SIDE, NOTHING = 64, "a lesion"
POLICIES = [("first_pass", "metadata"), ("paper", "metadata"), ("reference", "metadata"), ("none", "metadata"),
            ("first_pass", "none"), ("none", "none")]
RUN = ["iterations=2", "folds=2", "amp=false", "learning_rate=1e-9", "final_learning_rate=0"]


class Case:
    """One painted case, as its two files show it."""

    def __init__(self, row):
        grey, mask = np.asarray(Image.open(row.image)), np.asarray(Image.open(row.mask)) > 127
        self.height, self.width = grey.shape
        small = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        self.image = np.asarray(small).astype(np.float32) / 255
        self.mask = np.asarray(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST))
        self.box, self.centroid = measured(mask)
        self.findings = f"{row.shape} shape" if row.shape else ""

    @property
    def location(self) -> str:
        return place_of(self.centroid, self.width, self.height)

    def size(self, edges) -> str:
        return size_class(max(self.box), edges)

    def proposal(self, described: bool, threshold: float = 0.30) -> tuple[float, str, tuple[float, float]]:
        """Of the first pass, which is told no size and no location: longest side in original pixels, quadrant, and the
        centroid as fractions of the frame. What is told of the findings turns the map left to right."""
        seen = self.image[:, ::-1] if described else self.image
        box, (x, y) = measured(largest_region(seen, threshold))
        length = max(box[0] * self.width / SIDE, box[1] * self.height / SIDE)
        return length, place_of((x, y), SIDE, SIDE), ((x + 0.5) / SIDE, (y + 0.5) / SIDE)

    def middle(self) -> tuple[float, float]:
        """The middle one of the lesion's pixels, row after row, which is always inside (specification 5.4)."""
        inside = np.argwhere(self.mask)
        y, x = inside[len(inside) // 2]
        return (x + 0.5) / SIDE, (y + 0.5) / SIDE


@pytest.fixture(scope="module")
def root(phantom_root, tmp_path_factory):
    return painted.paint(phantom_root, tmp_path_factory.mktemp("painted") / "data")


@pytest.fixture
def study(root, tmp_path, outputs, monkeypatch):
    """A function that runs fold 0 of the painted cases with the system "brightness"."""
    made = painted.register(monkeypatch)
    lists = tmp_path / "folds"

    def run(*settings: str, name: str = "painted"):
        config = resolve("smoke", [*RUN, *settings])
        cases = open_source("phantom", root, None, config, name).cases
        if not lists.exists():
            painted.fold_lists(lists, list(cases["case_id"]))
        source = open_source("phantom", root, lists, config, name)
        folder = run_fold("brightness", 0, config, source, study=name)
        table = pd.read_csv(folder / "per_image.csv", keep_default_na=False)
        return {row.case_id: Case(row) for row in cases.itertuples()}, source, folder, table, made[-1]
    return run


def edges_of(cases, source, fold: int = 0) -> tuple[float, float]:
    """The two tertiles of the longest side over the training fold."""
    training, _ = source.split(fold)
    return thirds([max(cases[case].box) for case in training["case_id"]])


# ---- from files to the words of each policy -----------------------------------------------------------------


def test_what_each_policy_says(study):
    """first_pass: both from the model's own map; paper: size from the mask, location from the map; reference: both from
    the mask; none: neither. Words and points of all of them, in the order in which they are scored."""
    cases, source, _, table, _ = study()
    edges, (_, validated) = edges_of(cases, source), source.split(0)
    assert list(table.groupby(["policy", "attributes"], sort=False).groups) == POLICIES
    for policy, attributes in POLICIES:
        rows = table[(table["policy"] == policy) & (table["attributes"] == attributes)].set_index("case_id")
        assert list(rows.index) == list(validated["case_id"])
        for case_id, row in rows.iterrows():
            case = cases[case_id]
            length, location, centre = case.proposal(attributes == "metadata")
            text, point = {
                "first_pass": (about(size_class(length, edges), location), centre),
                "paper": (about(case.size(edges), location), centre),
                "reference": (about(case.size(edges), case.location), case.middle()),
                "none": (NOTHING, (0.5, 0.5)),
            }[policy]
            assert row["global_text"] == text, (case_id, policy)
            assert (float(row["x"]), float(row["y"])) == pytest.approx(point, abs=1e-6)
            assert (row["local_text"] == NOTHING) == (attributes == "none" or not case.findings)
    known = table[table["attributes"] == "metadata"].pivot(index="case_id", columns="policy", values="global_text")
    assert (known["first_pass"] != known["paper"]).any() and (known["paper"] != known["reference"]).any()
    assert {name for text in known["first_pass"] for name in words.QUADRANTS if name in text} == set(words.QUADRANTS)


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_the_threshold_is_that_of_the_configuration(study, threshold):
    """Without one it is 0.30: between the greys 76 and 77 of these images. Below 76 all of the frame is a lesion;
    above 77 only the bright spot is."""
    assert resolve("paper").first_pass_threshold == resolve("smoke").first_pass_threshold == 0.30
    assert painted.BELOW / 255 < 0.30 < painted.ABOVE / 255
    cases, source, _, table, _ = study(f"first_pass_threshold={threshold}")
    edges = edges_of(cases, source)
    for row in table[(table["policy"] == "first_pass") & (table["attributes"] == "metadata")].itertuples():
        length, location, centre = cases[row.case_id].proposal(True, threshold)
        assert row.global_text == about(size_class(length, edges), location)
        assert (row.x, row.y) == pytest.approx(centre, abs=1e-6)


def test_the_second_pass_is_what_is_scored(study):
    """It is told size, location and findings, so these maps are turned along both axes."""
    cases, _, folder, table, _ = study()
    kept = probabilities(folder)
    for case_id, found in kept.items():
        assert np.abs(found - cases[case_id].image[::-1, ::-1]).max() < 2e-3
    default = table[(table["policy"] == "first_pass") & (table["attributes"] == "metadata")].set_index("case_id")
    for case_id, row in default.iterrows():
        shown, mask = cases[case_id].image[::-1, ::-1] >= 0.5, cases[case_id].mask
        dice = 2 * (shown & mask).sum() / (shown.sum() + mask.sum())
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)


def test_a_saved_run_predicts_the_same_way(study):
    """Of any case, under any policy, with the size classes of its training fold."""
    _, source, folder, _, _ = study()
    trained, training = Trained.load(folder), source.split(0)[0]
    for policy, attributes in POLICIES:
        trained.predict(training, source.prepared, policy, attributes)
    cases = {row.case_id: Case(row) for row in training.itertuples()}
    edges = edges_of(cases, source)
    told = [row[2] for row in trained.predictor.system.seen]
    n = len(cases)
    assert len(told) == 9 * n  # two passes each under first_pass and paper, one under the others
    passes = [told[start:start + n] for start in range(0, len(told), n)]
    blank = [NOTHING] * n

    def proposed(described: bool) -> list[tuple]:
        return [case.proposal(described) for case in cases.values()]

    first = [about(size_class(length, edges), location) for length, location, _ in proposed(True)]
    paper = [about(case.size(edges), found[1]) for case, found in zip(cases.values(), proposed(True), strict=True)]
    reference = [about(case.size(edges), case.location) for case in cases.values()]
    undescribed = [about(size_class(length, edges), location) for length, location, _ in proposed(False)]
    assert passes == [blank, first, blank, paper, reference, blank, blank, undescribed, blank]


def test_under_flip_averaging_the_mirror_image_has_mirrored_words(study, monkeypatch):
    """In the first pass too, which sees both; the mean of both maps is what it measures."""
    monkeypatch.setitem(recipes.STRONG, "zoom_average", None)
    cases, _, folder, table, system = study("recipe=strong")
    default = table[(table["policy"] == "first_pass") & (table["attributes"] == "metadata")].set_index("case_id")
    told: dict[tuple[str, bool], list[str]] = {}
    for training, image, text, *_ in system.seen:
        if not training:
            mirrored = [(case_id, flip) for case_id in default.index for flip in (False, True)
                        if np.array_equal(image, cases[case_id].image[:, ::-1] if flip else cases[case_id].image)]
            told.setdefault(mirrored[0], []).append(text)
    other = {"left": "right", "right": "left"}
    for case_id, row in default.iterrows():
        expected = [" ".join(other.get(word, word) for word in text.split()) for text in told[case_id, False]]
        assert told[case_id, True] == expected and len(expected) == 9
        assert told[case_id, False][:2] == [NOTHING, row["global_text"]]  # of the first two passes, under first_pass
    kept = probabilities(folder)
    assert all(np.abs(found - cases[case_id].image[::-1, ::-1]).max() < 2e-3 for case_id, found in kept.items())


# ---- training prompts ---------------------------------------------------------------------------------------


def test_training_prompts_are_of_reference_and_metadata(study):
    """Each is one of the four that its own mask allows. Size and location are each left out of 30 %, the findings as a
    whole of 30 %, independently; the point is a pixel of the lesion, or the centre without a location."""
    cases, source, _, _, system = study("iterations=500", "checkpoint_every=1000")
    edges, (training, _) = edges_of(cases, source), source.split(0)
    by_image = {cases[case_id].image.tobytes(): case_id for case_id in training["case_id"]}
    rows, points = [], {}
    for is_training, image, text, findings, (x, y) in system.seen:
        if is_training:
            case = cases[by_image[image.tobytes()]]
            size, location = case.size(edges) in text.split(), case.location in text
            assert text == about(case.size(edges) if size else None, case.location if location else None)
            at = (int(y * SIDE), int(x * SIDE))
            centred = (x * SIDE, y * SIDE) == (at[1] + 0.5, at[0] + 0.5)
            assert case.mask[at] and centred if location else (x, y) == (.5, .5)
            if location:
                points.setdefault(by_image[image.tobytes()], set()).add(at)
            rows.append((size, location, findings != NOTHING))
    assert len(rows) == 2000 and len(by_image) == len(training)
    told = np.array(rows)
    described = np.array([row[2] for row in rows])
    assert told[:, :2].mean(0) == pytest.approx([0.7, 0.7], abs=0.04)
    assert described.mean() == pytest.approx(0.7, abs=0.04)
    assert np.abs(np.corrcoef(told.T) - np.eye(3)).max() < 0.08
    assert min(len(found) for found in points.values()) > 10  # a random pixel each time, not always the same


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_the_shares_are_those_of_the_configuration(study, drop):
    _, _, _, _, system = study(f"drop_spatial={drop}", f"drop_attributes={1 - drop}", "iterations=20")
    told = [(text, findings) for training, _, text, findings, _ in system.seen if training]
    assert len(told) == 80
    assert all((text == NOTHING) == (drop == 1) and (findings == NOTHING) == (drop == 0) for text, findings in told)
    if drop == 0:
        assert all("quadrant" in text and text.split()[1] in words.SIZES for text, _ in told)


# ---- the words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, location, text", [
    ("small", "upper left", "a small lesion in the upper left quadrant of the image"),
    ("medium", None, "a medium lesion"),
    (None, "lower right", "a lesion in the lower right quadrant of the image"),
    (None, None, "a lesion"),
])
def test_the_global_prompt(size, location, text):
    """Size and location tokens, verbalised; what is unknown is not said."""
    box = {None: None, "small": (30, 100), "medium": (200, 20)}[size]
    centre = {None: None, "upper left": (199.4, 99.4), "lower right": (199.6, 99.6)}[location]
    row, = words.build(FINDINGS.iloc[:1], [words.Finding(box, centre, (400, 200))], (100, 200)).to_dict("records")
    assert (row["global_text"], row["size"], row["quadrant"]) == (text, size, location)
    assert row["local_text"] == "irregular shape, microlobulated margin, BI-RADS 4"  # the paper's own example


FINDINGS = pd.DataFrame([
    {"case_id": "a", "shape": "irregular", "margin": "not circumscribed - microlobulated", "birads": "4"},
    {"case_id": "b", "shape": "oval", "margin": "circumscribed", "birads": "4b"},
    {"case_id": "c", "shape": None, "margin": "not circumscribed - angular&indistinct&spiculated", "birads": None},
    {"case_id": "d", "shape": "round", "margin": None, "birads": "2"},
    {"case_id": "e", "shape": None, "margin": None, "birads": None},
])


def test_the_local_prompt():
    """Shape, margin and BI-RADS in this order; sub-categories as recorded; what is missing is not said."""
    blank = [words.Finding(None, None, (10, 10))] * 5
    table = words.build(FINDINGS, blank, (1, 2))
    assert list(table["local_text"]) == [
        "irregular shape, microlobulated margin, BI-RADS 4", "oval shape, circumscribed margin, BI-RADS 4b",
        "angular, indistinct and spiculated margin", "round shape, BI-RADS 2", NOTHING]
    assert list(words.build(FINDINGS, blank, (1, 2), attributes=False)["local_text"]) == [NOTHING] * 5


def test_size_classes_are_tertiles():
    """Interpolated between neighbours; a lesion as long as an edge belongs below it. The longer side decides."""
    lengths = [7, 52, 599, 120, 88, 301, 90, 214]
    assert thirds(lengths) == pytest.approx((88 + 2 / 3, 182 + 2 / 3))  # sorted: 7, 52, 88, 90, 120, 214, 301, 599
    assert words.size_edges(np.array(lengths)) == pytest.approx(thirds(lengths))
    for side in (99, 100, 101, 200, 201):
        for box in ((side, 3), (3, side)):
            assert words.size_word(box, (100, 200)) == size_class(side, (100, 200))


# ---- the map of the first pass ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_region_of_random_maps(seed):
    """Pixels join by their sides only: of a chequered map no region is larger than a pixel."""
    draw = np.random.default_rng(seed)
    maps = draw.random((24, 24)).astype(np.float32)
    maps = np.where(draw.random((24, 24)) < 0.5, 0.3 * maps, maps)
    region = largest_region(maps, 0.30)
    box, (x, y) = measured(region)
    found = words.from_first_pass(maps, (480, 96), 0.30)
    assert found.box == pytest.approx((box[0] * 20, box[1] * 4))
    assert found.inside == pytest.approx(((x + 0.5) / 24, (y + 0.5) / 24))
    assert found.centre == pytest.approx(((x + 0.5) * 20 - 0.5, (y + 0.5) * 4 - 0.5))
    assert words.quadrant(found.centre, found.frame) == place_of((x, y), 24, 24)


def test_where_nothing_reaches_the_threshold_nothing_is_said():
    chequered = np.indices((8, 8)).sum(0) % 2 * 0.4
    assert words.from_first_pass(chequered, (80, 80), 0.30).box == (10, 10)
    found = words.from_first_pass(np.full((8, 8), 0.29), (80, 80), 0.30)
    assert found.box is None and found.centre is None
    row, = words.build(FINDINGS.iloc[:1], [found], (1, 2)).to_dict("records")
    assert (row["global_text"], row["x"], row["y"]) == (NOTHING, 0.5, 0.5)
    assert words.from_first_pass(np.full((8, 8), 0.30), (80, 80), 0.30).box == (80, 80)  # at it is enough
