"""The simulated phantom: its physics, its outlines, its words and its files, each measured independently."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from scipy.ndimage import binary_dilation, label
from skimage.measure import regionprops

from xbuslib.data.phantom import acoustics as acoustics
from xbuslib.data.phantom import lesion as lesion
from xbuslib.data.phantom import phantom
from xbuslib.errors import StudyError

BLU = Path(__file__).parents[2] / "shared" / "data" / "BLU"
SMALL = (240, 300)  # a quarter of the pixels, for tests over many cases
COLUMNS = [
    "CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Pixel_size", "Age",
    "Tissue_composition", "Signs", "Symptoms", "Shape", "Margin", "Echogenicity", "Posterior_features",
    "Halo", "Calcifications", "Skin_thickening", "Interpretation", "BIRADS", "Verification", "Diagnosis",
    "Classification",
]  # fmt: skip
WORDS = {
    "Shape": {"irregular", "oval", "round", "not applicable"},
    "Echogenicity": {"hypoechoic", "heterogeneous", "anechoic", "isoechoic", "complex cystic/solid",
                     "hyperechoic", "not applicable"},
    "Posterior_features": {"no", "shadowing", "enhancement", "combined", "not applicable"},
    "Halo": {"no", "yes", "not applicable"},
    "Calcifications": {"no", "in a mass", "intraductal", "indefinable", "not applicable"},
    "BIRADS": {1, 2, 3, "4a", "4b", "4c", 5},
    "Classification": {"benign", "malignant", "normal"},
}  # fmt: skip
OVAL = {  # a lesion that leaves only one word to vary
    "Classification": "benign", "Shape": "oval", "Margin": "circumscribed", "Echogenicity": "hypoechoic",
    "Posterior_features": "no", "Halo": "no", "Calcifications": "no",
}  # fmt: skip


@pytest.fixture(scope="module")
def frame():
    return acoustics.Frame(400, 480, 0.008, 1.0, False, 10.0, 1.6, 1, 58.0, 60.0)


@pytest.fixture(scope="module")
def homogeneous(frame):
    """Envelope (H, W) of uniform tissue without losses or reflectors."""
    return acoustics.echo(np.random.default_rng(1), np.ones(frame.shape), np.zeros(frame.shape), frame)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory):
    return phantom.write(tmp_path_factory.mktemp("phantom") / "data", n=24, seed=3, size=(120, 150))


def table(root):
    return pd.read_excel(root / phantom.TABLE)


# Physics


def test_homogeneous_speckle_is_rayleigh(homogeneous):
    # Fully developed speckle: mean / deviation = sqrt(pi / (4 - pi)) = 1.913, <I^2> / <I>^2 = 2 (Wagner
    # 1983).
    assert homogeneous.mean() / homogeneous.std() == pytest.approx(1.913, abs=0.05)
    assert (homogeneous**4).mean() / (homogeneous**2).mean() ** 2 == pytest.approx(2.0, abs=0.1)
    apart = homogeneous[::8, ::16].ravel()  # samples further apart than a speckle are independent
    scale = np.sqrt((apart**2).mean() / 2)
    assert stats.kstest(apart, stats.rayleigh(scale=scale).cdf).pvalue > 0.01


def test_point_spread_keeps_power_at_every_depth(homogeneous):
    power = [(rows**2).mean() for rows in np.array_split(homogeneous, 4)]
    assert np.allclose(power, 1.0, atol=0.12)


def test_speckle_is_wider_away_from_the_focus(homogeneous, frame):
    def lateral_correlation(depth):
        row = int(depth / frame.pixel)
        rows = homogeneous[row - 20 : row + 20] - homogeneous.mean()
        return (rows[:, 3:] * rows[:, :-3]).mean() / (rows**2).mean()

    at_focus = lateral_correlation(1.6)
    assert lateral_correlation(3.0) > at_focus + 0.1
    assert lateral_correlation(0.2) > at_focus + 0.1


def test_attenuation_darkens_with_depth(frame):
    # 1.15 dB/cm/MHz of tissue under a TGC for 0.65 loses 0.5 dB/cm/MHz: 10 dB/cm there and back at 10 MHz.
    rng = np.random.default_rng(2)
    loss = acoustics.two_way_loss(np.full(frame.shape, 1.15), frame)
    envelope = acoustics.echo(rng, 10 ** (loss / 20), np.zeros(frame.shape), frame)
    level = 10 * np.log10((envelope**2).mean(axis=1))
    assert stats.linregress(frame.depths[:, 0], level).slope == pytest.approx(-10.0, abs=0.5)


def test_log_compression_shows_its_dynamic_range(frame):
    step = np.ones(frame.shape)
    step[:, 240:] = 10 ** (6 / 20)  # 6 dB brighter, half the picture, so the median is the mean of the two
    grey = acoustics.log_compress(step, frame, np.ones(frame.shape, bool)).astype(float)
    assert grey[:, 400].mean() - grey[:, 80].mean() == pytest.approx(6 * 255 / 58, abs=1.5)


# What the words do to the picture


def behind_and_beside(case):
    """Mean grey just behind the lesion's middle, and at the same depth beside it."""
    grey = case.image[..., 0].astype(float)
    rows, columns = np.flatnonzero(case.mask.any(1)), np.flatnonzero(case.mask.any(0))
    deep = slice(rows[-1] + 4, rows[-1] + 40)
    quarter, width = len(columns) // 4, case.mask.shape[1]
    behind = grey[deep, columns[0] + quarter : columns[-1] - quarter]
    beside = [
        grey[deep, max(columns[0] - 60, 0) : columns[0] - 8],
        grey[deep, columns[-1] + 8 : min(columns[-1] + 60, width)],
    ]
    return behind.mean(), np.concatenate([part.ravel() for part in beside]).mean()


def test_posterior_words_change_the_echoes_behind():
    contrast = {}
    for word in ("shadowing", "no", "enhancement"):
        pairs = [
            behind_and_beside(phantom.simulate(k, 5, SMALL, OVAL | {"Posterior_features": word}))
            for k in range(1, 13)
        ]
        contrast[word] = np.mean([behind - beside for behind, beside in pairs])
    assert contrast["shadowing"] < contrast["no"] - 12
    assert contrast["enhancement"] > contrast["no"] + 8
    assert contrast["shadowing"] < -8
    assert contrast["enhancement"] > 5


def test_combined_is_brighter_on_one_side_and_darker_on_the_other():
    plain, combined = (
        phantom.simulate(4, 5, SMALL, OVAL | {"Posterior_features": word}) for word in ("no", "combined")
    )
    rows, columns = np.flatnonzero(plain.mask.any(1)), np.flatnonzero(plain.mask.any(0))
    change = (
        combined.image[rows[-1] + 4 : rows[-1] + 40, :, 0].astype(float)
        - plain.image[rows[-1] + 4 : rows[-1] + 40, :, 0]
    )
    middle, quarter = (columns[0] + columns[-1]) // 2, len(columns) // 4
    sides = sorted([change[:, middle - quarter : middle].mean(), change[:, middle : middle + quarter].mean()])
    assert sides[0] < -5 and sides[1] > 5


def test_echo_level_follows_the_echogenicity_word():
    contrast = {}
    for word in ("anechoic", "hypoechoic", "isoechoic", "hyperechoic"):
        differences = []
        for number in range(1, 9):
            case = phantom.simulate(number, 7, SMALL, OVAL | {"Echogenicity": word})
            around = binary_dilation(case.mask, iterations=18) & ~binary_dilation(case.mask, iterations=3)
            differences.append(case.image[case.mask, 0].mean() - case.image[around, 0].mean())
        contrast[word] = np.mean(differences)
    assert contrast["anechoic"] < contrast["hypoechoic"] - 10
    assert contrast["hypoechoic"] < contrast["isoechoic"] - 15
    assert contrast["isoechoic"] < contrast["hyperechoic"] - 10
    assert abs(contrast["isoechoic"]) < 15  # about as bright as the tissue around


def test_halo_brightens_and_calcifications_shine():
    plain = phantom.simulate(6, 5, SMALL, OVAL)
    halo = phantom.simulate(6, 5, SMALL, OVAL | {"Halo": "yes"})
    rim = binary_dilation(plain.mask, iterations=5) & ~binary_dilation(plain.mask, iterations=1)
    far = ~binary_dilation(plain.mask, iterations=30)
    assert (halo.image[rim, 0].mean() - halo.image[far, 0].mean()) > (
        plain.image[rim, 0].mean() - plain.image[far, 0].mean()
    ) + 8
    specks = phantom.simulate(6, 5, SMALL, OVAL | {"Calcifications": "in a mass"})
    assert (
        np.percentile(specks.image[specks.mask, 0], 99.5)
        > np.percentile(plain.image[plain.mask, 0], 99.5) + 20
    )


# Outlines


def outlines(shape, margin, count=16):
    """Region properties of outlines with these words, 120 pixels long."""
    grid = acoustics.Frame(160, 160, 0.008, 1.0, False, 10.0, 1.6, 1, 58.0, 60.0)
    for seed in range(count):
        drawn = lesion.outline(np.random.default_rng(seed), shape, margin, 120)._replace(
            row=80.0, column=80.0
        )
        yield regionprops((lesion.distance(drawn, drawn.drawn, grid) < 0).astype(np.uint8))[0]


def mean_of(name, shape, margin):
    return np.mean([getattr(region, name) for region in outlines(shape, margin)])


def test_round_is_round_and_oval_is_longer():
    rounds = [r.axis_major_length / r.axis_minor_length for r in outlines("round", "circumscribed")]
    ovals = [r.axis_major_length / r.axis_minor_length for r in outlines("oval", "circumscribed")]
    assert max(rounds) < 1.25 < min(ovals)
    assert 1.5 < np.mean(ovals) < 2.2
    assert (
        np.mean([abs(r.orientation) > np.pi / 4 for r in outlines("oval", "circumscribed")]) == 1
    )  # lie flat


def test_irregular_is_less_compact_than_oval():
    assert (
        mean_of("solidity", "irregular", "not circumscribed - indistinct")
        < mean_of("solidity", "oval", "circumscribed") - 0.02
    )


@pytest.mark.parametrize("word", ["microlobulated", "spiculated"])
@pytest.mark.parametrize("shape", ["oval", "irregular"])
def test_ragged_margins_are_less_convex(shape, word):
    smooth, ragged = (
        mean_of("solidity", shape, margin) for margin in ("circumscribed", f"not circumscribed - {word}")
    )
    assert ragged < smooth - 0.02


def test_angular_outlines_have_corners():
    def sharpest(margin):
        turns = []
        for seed in range(12):
            radius = lesion.outline(np.random.default_rng(seed), "oval", margin, 120).drawn
            points = (radius * np.exp(1j * lesion.ANGLES))[::12]  # steps of six degrees
            steps = np.roll(points, -1) - points
            turns.append(np.abs(np.angle(np.roll(steps, -1) / steps)).max())
        return np.mean(turns)

    assert sharpest("not circumscribed - angular") > sharpest("circumscribed") + np.radians(15)


def test_the_mask_follows_a_spicule_half_way():
    shape = lesion.outline(np.random.default_rng(1), "irregular", "not circumscribed - spiculated", 150)
    body = np.median(shape.reached / shape.drawn)
    assert body == 1  # between spicules the two agree
    assert (shape.drawn <= shape.reached).all() and shape.reached.max() > 1.1 * shape.drawn.max() * body


@pytest.mark.parametrize(
    "margin", ["circumscribed", "not circumscribed - spiculated&angular&microlobulated&indistinct"]
)
def test_length_is_what_was_asked(margin):
    for region in outlines("irregular", margin, 6):
        top, left, bottom, right = region.bbox
        assert max(bottom - top, right - left) == pytest.approx(120, abs=2)


# Cases


def test_classes_are_mixed_as_in_blu():
    groups = [phantom.group(number, seed=4) for number in range(1, 301)]
    assert groups.count("normal") == 10
    assert groups.count("benign") / groups.count("malignant") == pytest.approx(154 / 98, abs=0.15)
    for seed in range(20):
        assert "normal" in [phantom.group(number, seed) for number in range(1, 21)]


def test_sizes_spread_as_in_blu():
    lengths = []
    for number in range(1, 61):
        case = phantom.simulate(number, 0, (90, 120))
        if case.mask is not None:
            natural = case.mask.shape[1] * case.row["Pixel_size"] / 0.0078  # to BLU's commonest pixel
            sides = [np.flatnonzero(case.mask.any(axis)) for axis in (0, 1)]
            lengths.append(max(np.ptp(side) + 1 for side in sides) / case.mask.shape[1] * natural)
    low, high = np.quantile(lengths, [1 / 3, 2 / 3])
    assert 110 < low < 175 and 175 < high < 290


def test_a_word_changes_nothing_but_what_it_says():
    plain, other = (
        phantom.simulate(3, 0, SMALL, OVAL),
        phantom.simulate(3, 0, SMALL, OVAL | {"Posterior_features": "shadowing"}),
    )
    assert np.array_equal(plain.mask, other.mask)
    first = np.flatnonzero(plain.mask.any(1))[0]
    above = (other.image[: first - 12, :, 0].astype(float) - plain.image[: first - 12, :, 0]).std()
    assert above < 3  # what lies above the lesion differs by the gain alone


def test_some_pictures_have_a_transparent_surround():
    cases = [phantom.simulate(number, 0, (60, 80)) for number in range(1, 41)]
    sectors = [case for case in cases if (case.image[..., 3] == 0).any()]
    assert 1 <= len(sectors) <= 12
    for case in sectors:
        hidden = case.image[..., 3] == 0
        assert not case.image[hidden].any()
        assert case.mask is None or not (case.mask & hidden).any()


def test_case_1_is_the_same_on_every_machine():
    # Update on purpose only: a changed digest means that published phantoms no longer come out the same.
    case = phantom.simulate(1, 0, (96, 128))
    digest = hashlib.sha256(case.image.tobytes() + case.mask.tobytes()).hexdigest()
    assert digest[:16] == "e18c32a166e60c2e"


# Files


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_and_another_seed_other_bytes(tmp_path):
    first, second, other = (
        phantom.write(tmp_path / name, 3, seed, (80, 100)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert digests(first) == digests(second)
    changed = digests(other)
    assert all(changed[name] != digest for name, digest in digests(first).items() if name in changed)


def test_a_case_does_not_depend_on_how_many_are_made(tmp_path, small_set):
    few = digests(phantom.write(tmp_path / "few", 4, seed=3, size=(120, 150)))
    many = digests(small_set)
    pictures = [name for name in few if name.endswith(".png")]
    assert len(pictures) >= 7 and all(few[name] == many[name] for name in pictures)
    assert table(tmp_path / "few").equals(table(small_set).head(4).astype(table(tmp_path / "few").dtypes))


def test_masks_fit_their_images_and_are_one_piece(small_set):
    rows = table(small_set)
    for row in rows[rows.Mask_tumor_filename.notna()].itertuples():
        image = np.array(Image.open(small_set / phantom.IMAGES / row.Image_filename))
        mask = np.array(Image.open(small_set / phantom.IMAGES / row.Mask_tumor_filename))
        assert image.dtype == mask.dtype == np.uint8 and image.shape == mask.shape and mask.shape[2] == 4
        assert set(np.unique(mask)) == {0, 255} and (mask == mask[..., :1]).all()
        assert label(mask[..., 0], np.ones((3, 3)))[1] == 1
        assert (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()


def test_table_has_blu_columns_and_words(small_set):
    rows = table(small_set)
    assert list(rows.columns) == COLUMNS
    assert list(rows.CaseID) == list(range(1, 25)) and rows.Pixel_size.between(0.003, 0.1).all()
    for column, words in WORDS.items():
        assert set(rows[column]) <= words, column
    assert rows.Margin.str.fullmatch(r"circumscribed|not applicable|not circumscribed - [a-z&]+").all()
    assert pd.read_excel(small_set / phantom.TABLE, sheet_name="Data Dictionary").shape == (21, 2)


def test_normal_cases_have_no_mask(small_set):
    rows = table(small_set)
    normal = rows[rows.Classification == "normal"]
    assert len(normal) >= 1 and normal.Mask_tumor_filename.isna().all()
    assert (normal.BIRADS == 1).all() and (normal.Shape == "not applicable").all()
    assert not list((small_set / phantom.IMAGES).glob(f"case{normal.CaseID.iloc[0]:03d}_*"))


def test_table_agrees_with_the_real_one(small_set):
    if not BLU.is_dir():
        pytest.skip(f"BLU is not at {BLU}")
    real, ours = table(BLU), table(small_set)
    assert list(ours.columns) == list(real.columns)
    for column in (
        "Tissue_composition",
        "Signs",
        "Symptoms",
        "Margin",
        "Verification",
        "Diagnosis",
        "Interpretation",
        *WORDS,
    ):
        assert set(ours[column]) <= set(real[column]), column
    names = [pd.ExcelFile(root / phantom.TABLE).sheet_names for root in (BLU, small_set)]
    assert names[0] == names[1]


def test_more_than_999_cases_get_more_digits(tmp_path, monkeypatch):
    case = phantom.simulate(1, 0, (32, 40))
    monkeypatch.setattr(
        phantom, "simulate", lambda number, *_: case._replace(row=case.row | {"CaseID": number})
    )
    root = phantom.write(tmp_path / "many", 1000)
    assert (root / phantom.IMAGES / "case0001.png").exists() and (
        root / phantom.IMAGES / "case1000_tumor.png"
    ).exists()


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="not an empty folder"):
        phantom.write(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_broken_off_leaves_nothing(tmp_path, monkeypatch):
    def stop(sheet, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "write_workbook", stop)
    with pytest.raises(KeyboardInterrupt):
        phantom.write(tmp_path / "data", 2, size=(40, 50))
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_progress_told(tmp_path, capsys):
    phantom.write(tmp_path, 2, size=(40, 50))
    assert "simulating phantom cases: 2/2" in capsys.readouterr().err and (tmp_path / phantom.TABLE).exists()
