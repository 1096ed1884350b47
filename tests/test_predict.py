"""New images: the same numbers as in the run folder, ensembles as numpy has them, reports, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xbuslib import cli
from xbuslib.config import resolve
from xbuslib.data import catalogue, originals
from xbuslib.errors import StudyError
from xbuslib.evaluation import measure
from xbuslib.inference.predict import probability_maps
from xbuslib.lesion import ensemble, figures, page, reading, structured_report
from xbuslib.lesion.ensemble import UserPrompt, user_prompt
from xbuslib.lesion.predict import segment_files
from xbuslib.lesion.structured_report import Report
from xbuslib.models.system import Prompts
from xbuslib.runs import record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source
from xbuslib.runs.trained import Trained

FILES = {"mask.png", "probability.png", "maps.npz", "overlay.png", "report.json", "report.html"}


@pytest.fixture(scope="module")
def cases(phantom_root):
    return catalogue.load("phantom", phantom_root).set_index("case_id", drop=False)


@pytest.fixture(scope="module")
def runs(smoke_study):
    """Both folds of xbusnet, loaded."""
    return [Trained.load(folder) for folder in ensemble.find_runs(smoke_study.folder / "runs" / "xbusnet")]


@pytest.fixture(scope="module")
def picture(cases):
    return reading.read(cases["image"].iloc[0], pixel_mm=(0.08, 0.08))


@pytest.fixture(scope="module")
def found(runs, picture):
    return ensemble.segment(runs, picture, user_prompt("oval", "circumscribed", "3"))


# ---- the same numbers as in training --------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["xbusnet", "bussam"])
def test_an_image_of_the_study_gets_the_probabilities_of_its_run_folder(system, phantom_root, cases, outputs):
    """The file alone, with its metadata as attributes, against probabilities.npz of the run that validated it.

    In float32, for bfloat16 rounds a batch of one otherwise than a batch of many.
    """
    config = resolve("smoke", ["iterations=2", "folds=2", "amp=false"])
    folder = run_fold(system, 0, config, open_source("phantom", phantom_root, None, config, "new"), study="new")
    kept, trained = record.probabilities(folder), Trained.load(folder)
    for case_id in sorted(kept)[:4]:
        row = cases.loc[case_id]
        prompt = UserPrompt(row["shape"], row["margin"], row["birads"])
        one = ensemble.segment([trained], reading.read(row["image"]), prompt)
        assert np.abs(one.members[0] - kept[case_id]).max() < 0.0006  # of half precision, see record.halved
        assert np.ptp(kept[case_id]) > 0.01  # a flat map would agree with any other


def test_flip_averaging_is_that_of_training(smoke_study, cases):
    """Under a plan that averages over the mirror image, the map is the mean of both, each with its own prompt."""
    trained = Trained.load(smoke_study.run_folder("xbusnet", 0))
    plan = replace(trained.predictor.plan, flip_average=True)
    flipped = replace(trained, predictor=replace(trained.predictor, plan=plan))
    picture = reading.read(cases["image"].iloc[1])
    turned = replace(picture, grey=picture.grey[:, ::-1].copy())
    left, right = UserPrompt(size="small", quadrant="upper left"), UserPrompt(size="small", quadrant="upper right")
    both = ensemble.segment([flipped], picture, left).members[0]
    one = ensemble.segment([trained], picture, left).members[0]
    other = ensemble.segment([trained], turned, right).members[0][:, ::-1]
    # turning the original and shrinking it differs from shrinking it and turning that by rounding of greys
    assert np.abs(both - (one + other) / 2).max() < 0.02


def test_an_ensemble_is_mean_and_sample_sd(runs, picture, found):
    single = [ensemble.segment([trained], picture, user_prompt("oval", "circumscribed", "3")) for trained in runs]
    assert single[0].disagreement is None and np.ptp([one.members[0].mean() for one in single]) > 0
    maps = np.stack([one.members[0] for one in single])
    size = picture.frame
    assert found.probability.shape == found.mask.shape == picture.grey.shape
    assert np.allclose(found.probability, originals.at_size(maps.mean(axis=0), *size), atol=1e-6)
    assert np.allclose(found.disagreement, originals.at_size(np.abs(maps[0] - maps[1]) / np.sqrt(2), *size), atol=1e-6)
    assert np.array_equal(found.mask, found.probability >= 0.5)


def test_all_at_once_is_one_after_the_other(smoke_study, picture, found):
    folders = ensemble.find_runs(smoke_study.folder / "runs" / "xbusnet")
    again, = ensemble.segment_all(folders, [picture], user_prompt("oval", "circumscribed", "3"))
    assert np.array_equal(again.members, found.members) and again.prompts.equals(found.prompts)


def test_size_and_location_are_what_is_fixed(runs, picture):
    for size, location in (("small", "lower right"), ("large", "upper left"), ("medium", "lower left")):
        prompts = ensemble.segment(runs, picture, UserPrompt(size=size, quadrant=location)).prompts
        assert set(prompts["global_text"]) == {f"a {size} lesion in the {location} quadrant of the image"}
    assert set(prompts["local_text"]) == {"a lesion"}


def test_the_first_pass_is_the_models_own(runs, picture):
    """Without a word, size and location come from the map that the model gives under an empty prompt."""
    from xbuslib.prompts import words

    trained, own = runs[0], runs[0].predictor
    view, = ensemble.views_of(trained, picture)
    blank = Prompts(global_text=own.texts(["a lesion"]), local_text=own.texts(["a lesion"]))
    first, = probability_maps(own.system, view.images, view.features, blank, own.plan, own.device)
    finding = words.from_first_pass(first, picture.frame, 0.30)
    row = ensemble.segment([trained], picture, UserPrompt()).prompts.iloc[0]
    assert row["quadrant"] == words.quadrant(finding.centre, picture.frame)
    assert row["size"] == words.size_word(finding.box, tuple(trained.run["size_edges_px"]))


# ---- the prompt of a user -----------------------------------------------------------------------------------------


def test_words_as_users_write_them():
    written = user_prompt("Irregular ", "Spiculated, indistinct", "BI-RADS 4C")
    assert written == UserPrompt("irregular", "spiculated&indistinct", "4c")
    published = "not circumscribed - angular&indistinct"
    assert user_prompt(margin=published).margin == published
    assert user_prompt() == UserPrompt() and user_prompt(birads=3) == UserPrompt(birads="3")
    with pytest.raises(StudyError, match="margin: one text is needed"):
        user_prompt(margin=["spiculated", "indistinct"])


def test_unknown_words_name_the_known():
    with pytest.raises(StudyError) as caught:
        user_prompt("egg", "spiculated,fuzzy", "7", "tiny", "middle")
    message = str(caught.value)
    for words in ("unknown shape 'egg'", "oval, round, irregular", "unknown margin 'fuzzy'", "microlobulated",
                  "unknown birads '7'", "4a, 4b", "unknown size 'tiny'", "medium", "unknown quadrant 'middle'"):
        assert words in message
    assert "spiculated'" not in message


# ---- which runs -----------------------------------------------------------------------------------------------


def test_a_run_folder_a_fold_and_a_system_can_be_named(smoke_study):
    system = smoke_study.folder / "runs" / "xbusnet"
    both = [system / f"fold_{fold}" / "seed_0" for fold in (0, 1)]
    assert ensemble.find_runs(system) == both
    assert ensemble.find_runs(system / "fold_1") == both[1:] == ensemble.find_runs(both[1])


def test_runs_that_are_no_one_ensemble(smoke_study, tmp_path):
    for folder in (smoke_study.folder, smoke_study.folder / "runs"):
        with pytest.raises(StudyError, match="several systems: bussam, unet"):
            ensemble.find_runs(folder)
    with pytest.raises(StudyError, match="holds no finished run"):
        ensemble.find_runs(tmp_path)


def test_a_study_without_runs_names_the_command(outputs):
    with pytest.raises(StudyError, match=r"xbuslib fold --system xbusnet --study nowhere"):
        ensemble.of_study("nowhere", "xbusnet")


# ---- the report -----------------------------------------------------------------------------------------------


def with_mask(found, mask):
    """The same segmentation with another probability map."""
    small = mask[::4, ::4].astype(np.float32)
    return replace(found, probability=mask.astype(np.float32), members=np.stack([small, small]))


def box(picture, *parts):
    mask = np.zeros(picture.grey.shape, bool)
    for part in parts:
        mask[part] = True
    return mask


def test_the_report_holds_the_measurements_and_the_given_words(found, picture):
    prompt = user_prompt("irregular", "spiculated,indistinct", "4c")
    mask = box(picture, np.s_[50:150, 60:260], np.s_[300:310, 20:30])
    report = structured_report.make(picture, with_mask(found, mask), prompt)
    assert report.lesion == measure.lesion(mask, (0.08, 0.08)) and report.lesion.regions == 2
    assert report.lesion.area == pytest.approx(100 * 200 * 0.0064)
    assert "2 separate regions" in report.statement and "upper left" in report.statement
    assert report.attributes.model_dump() == {"shape": "irregular", "margin": "spiculated&indistinct", "birads": "4c",
                                              "size": None, "quadrant": None}
    html = page.html(report, {"overlay": b"x"})
    for text in ("Research use only, not a medical device", "not circumscribed: spiculated, indistinct", "BI-RADS 4c",
                 "128.0 mm²", "parallel", "simulated phantom", "CLIP random", picture.path.name,
                 "upper left quadrant"):
        assert text in html, text
    assert "src=\"http" not in html and "href" not in html


def test_nothing_found_has_no_numbers(found, picture):
    report = structured_report.make(picture, with_mask(found, box(picture)), UserPrompt())
    assert report.lesion is None and report.statement.startswith("No lesion above threshold")
    assert report.agreement.runs_with_lesion == 0 and report.agreement.longest_diameter is None
    html = page.html(report, {"overlay": b"x"})
    assert "No lesion above threshold" in html and "diameter</th>" not in html and " mm²" not in html
    assert json.loads(report.model_dump_json())["lesion"] is None


def test_pixels_without_a_size_stay_pixels(found, picture):
    mask = box(picture, np.s_[50:150, 60:260])
    report = structured_report.make(reading.with_pixel_size(picture, None), with_mask(found, mask), UserPrompt())
    assert report.lesion.unit == "px" and report.lesion.area == 20_000
    assert any("pixel size is unknown" in note for note in report.image.notes)
    html = page.html(report, {"overlay": b"x"})
    assert "20000 px²" in html and " mm²" not in html


def test_agreement_over_runs(found, picture):
    """One run with a box of 40×40 map pixels, one with nothing."""
    side = found.members.shape[-1]
    maps = np.zeros((2, side, side), np.float32)
    maps[0, 10:50, 10:50] = 1
    two = replace(found, members=maps, probability=originals.at_size(maps.mean(axis=0), *picture.frame),
                  disagreement=originals.at_size(maps.std(axis=0, ddof=1), *picture.frame))
    report = structured_report.make(picture, two, UserPrompt())
    agreement = report.agreement
    assert (agreement.runs, agreement.runs_with_lesion) == (2, 1)
    width, height = picture.frame
    assert agreement.area[0] == agreement.area[1] == pytest.approx(
        (40 / side) ** 2 * width * height * 0.0064, rel=0.02)
    longest, one = (figures.amount(value, "mm") for value in (report.lesion.longest_diameter,
                                                              agreement.longest_diameter[0]))
    assert page.size_in_words(report) == f" Its longest diameter is {longest} (over runs {one[:-3]} to {one})."
    assert longest != one and page.size_in_words(report.model_copy(update={"lesion": None})) == ""


def test_what_a_system_does_not_read_is_a_caveat(smoke_study, picture):
    trained, prompt = Trained.load(smoke_study.run_folder("unet", 0)), user_prompt("oval", quadrant="upper left")
    report = structured_report.make(picture, ensemble.segment([trained], picture, prompt), prompt)
    assert report.agreement is None and report.model.reads == []
    assert any("changed nothing" in sentence and "margin" in sentence for sentence in report.model.caveats)
    assert any("neither size nor location" in sentence for sentence in report.model.caveats)
    assert ("Size class", "not read by this model") in page.given_words(report)
    assert ("Quadrant", "upper left") in page.given_words(report)


def test_a_system_that_reads_a_point_has_a_location_and_no_size(smoke_study, picture):
    trained, prompt = Trained.load(smoke_study.run_folder("bussam", 0)), user_prompt("", size="small")
    report = structured_report.make(picture, ensemble.segment([trained], picture, prompt), prompt)
    assert "BUSSAM reads no size: the given size class changed nothing." in report.model.caveats
    assert ("Quadrant", "by the model's first pass") in page.given_words(report)
    words = page.given_words(report.model_copy(update={"attributes": report.attributes.model_copy(
        update={"size": None})}))
    assert ("Size class", "not read by this model") in words


# ---- files ----------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again(found, picture, tmp_path):
    mask = box(picture, np.s_[50:150, 60:260])
    two = with_mask(found, mask)
    report = structured_report.make(picture, two, UserPrompt())
    folder = page.write(tmp_path / "a", picture, two, report)
    assert {path.name for path in folder.iterdir()} == FILES | {"disagreement.png"}
    again, read_mask, probability = page.read(folder)
    assert again == report and np.array_equal(read_mask, mask) and np.array_equal(probability, mask)
    with Image.open(folder / "probability.png") as image:
        assert image.mode.startswith("I;16") and image.size == picture.frame
    assert np.array_equal(np.load(folder / "maps.npz")["members"], two.members)
    (folder / "report.json").write_text("{}")
    with pytest.raises(StudyError, match="no complete report"):
        page.read(folder)


def test_results_are_replaced_whole_or_not_at_all(found, picture, tmp_path, monkeypatch):
    report = structured_report.make(picture, found, UserPrompt())
    folder = page.write(tmp_path / "a", picture, found, report)
    (folder / "report.dcm").write_text("of the first run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(page, "html", lambda *arguments: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(StudyError, match="No space left"):
            page.write(tmp_path / "a", picture, found, report)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    page.write(tmp_path / "a", picture, found, report)
    assert not (folder / "report.dcm").exists() and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_of_something_else_is_left_alone(found, picture, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("mine")
    with pytest.raises(StudyError, match="holds no earlier report"):
        page.write(tmp_path / "a", picture, found, structured_report.make(picture, found, UserPrompt()))
    assert (tmp_path / "a" / "thesis.tex").read_text() == "mine"


def test_results_beside_which_someone_keeps_a_file_are_left_alone(found, picture, tmp_path):
    report = structured_report.make(picture, found, UserPrompt())
    folder = page.write(tmp_path / "a", picture, found, report, {"report.dcm": b"x"})
    (folder / "my notes.txt").write_text("seen by two readers")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(StudyError, match="also holds files that no earlier result wrote: my notes.txt"):
        page.write(folder, picture, found, report)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "my notes.txt").unlink()
    page.write(folder, picture, found, report)
    assert {path.name for path in folder.iterdir()} == FILES | {"disagreement.png"}


def test_two_images_of_one_name(tmp_path, smoke_study):
    with pytest.raises(StudyError, match=r"x/a.png, y/A.jpg would all go"):
        segment_files([Path("x/a.png"), Path("b.png"), Path("y/A.jpg")], smoke_study.folder, tmp_path / "out",
                      UserPrompt())
    assert not (tmp_path / "out").exists()


# ---- the command ----------------------------------------------------------------------------------------------


def test_command_does_the_good_images_and_lists_the_bad(smoke_study, cases, tmp_path, run_command):
    (tmp_path / "text.png").write_text("no image")
    done = run_command("predict", cases["image"].iloc[0], tmp_path / "text.png", tmp_path / "absent.png",
                       cases["image"].iloc[1], "--run", smoke_study.folder / "runs" / "xbusnet", "--shape", "oval",
                       "--margin", "circumscribed", "--birads", "3", "--pixel-mm", "0.07", "--out", tmp_path / "out",
                       "--json")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "text.png is no image" in done.stderr and "absent.png" in done.stderr
    assert [row["image"] for row in json.loads(done.stdout)] == ["case001.png", "case002.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case001", "case002"]
    report, mask, _ = page.read(tmp_path / "out" / "case001")
    assert mask.shape == (report.image.height, report.image.width) and report.image.pixel_mm == (0.07, 0.07)
    assert report.model.folds == [0, 1] and report.attributes.margin == "circumscribed"
    assert isinstance(report, Report)


def test_command_refuses_before_anything_is_read(smoke_study, cases, tmp_path):
    image, run = Path(cases["image"].iloc[0]), smoke_study.folder / "runs" / "xbusnet"
    for wrong, word in (({"shape": "egg"}, "oval, round, irregular"), ({"pixel_mm": "9"}, "0.005 to 1.0")):
        with pytest.raises(StudyError, match=word):
            cli.predict([image], run, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
