"""xbuslib publish: the folder that travels, its card and checksums, the hub (a loopback one), and starting from it."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner

import xbuslib
from tests.loopback_hub import TOKEN, Hub
from xbuslib import cli
from xbuslib.config import resolve
from xbuslib.data import catalogue
from xbuslib.errors import StudyError
from xbuslib.runs import ancestors, fold, published, record
from xbuslib.runs.publish import card, publish
from xbuslib.runs.source import open_source

PAPER, RELEASED = ["dice", "iou", "fpr", "fnr"], ["dice_two_class", "iou_two_class", "fpr_released", "fnr_two_class"]
RUN = {"run.json", "weights.safetensors", "seen.csv"}


@pytest.fixture(scope="module")
def image(phantom_root):
    return Path(catalogue.load("phantom", phantom_root)["image"].iloc[0])


@pytest.fixture(scope="module")
def both(two_folds):
    return [two_folds / f"fold_{number}" / "seed_0" for number in (0, 1)]


@pytest.fixture(scope="module")
def system(both, tmp_path_factory):
    """Both folds, published."""
    return publish(both, tmp_path_factory.mktemp("published") / "system")


@pytest.fixture
def one(both, tmp_path):
    """One fold, published, to be changed."""
    return publish(both[:1], tmp_path / "one")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on the loopback, to which this process's client is turned, with a cache of its own."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    published._fetched.cache_clear()
    yield server
    published._fetched.cache_clear()
    server.close()


def command(*arguments):
    return CliRunner().invoke(cli.app, [str(part) for part in arguments])


# ---- the folder -----------------------------------------------------------------------------------------------


def test_a_moved_folder_predicts_the_same_mask_byte_for_byte(two_folds, image, tmp_path, monkeypatch):
    done = command("publish", two_folds, "--out", tmp_path / "here", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout) == {"folder": str(tmp_path / "here"), "address": None}
    moved = shutil.move(tmp_path / "here", tmp_path / "another place")
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "empty"))
    for run, out in ((two_folds, "a"), (moved, "b")):
        done = command("predict", image, "--run", run, "--out", tmp_path / out, "--shape", "oval")
        assert done.exit_code == 0, done.output
    for name in ("mask.png", "probability.png", "disagreement.png"):
        one, other = (tmp_path / out / image.stem / name for out in "ab")
        assert one.read_bytes() == other.read_bytes() and len(one.read_bytes()) > 300, name
    assert not (tmp_path / "empty").exists()


def test_what_is_in_it(system, one, both):
    names = {str(path.relative_to(system)) for path in system.rglob("*") if path.is_file()}
    assert names == {"README.md", "config.json", "SHA256SUMS"} | {
        f"fold_{number}/seed_0/{name}" for number in (0, 1) for name in RUN}
    assert {path.name for path in one.iterdir()} == {"README.md", "config.json", "SHA256SUMS"} | RUN
    assert (one / "weights.safetensors").read_bytes() == (both[0] / "weights.safetensors").read_bytes()
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=system, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count(": OK") == 8
    config = json.loads((system / "config.json").read_text())
    assert config["model_type"] == "xbusnet" and config["runs"] == ["fold_0/seed_0", "fold_1/seed_0"]
    text = "".join(path.read_text() for path in one.iterdir() if path.suffix in (".md", ".json", ".csv"))
    assert str(both[0].parents[3]) not in text  # no path of this machine
    seen, published_as = (pd.read_csv(folder / "seen.csv", dtype=str) for folder in (both[0], one))
    assert not any(name in text for name in seen["case_id"])  # the file names of a hospital may name its patients
    pd.testing.assert_frame_equal(published_as.drop(columns="case_id"), seen.drop(columns="case_id"))


def test_the_card_has_the_scores_of_both_families(system, both):
    """Means over images of a fold, then over folds, from the run folders by hand; in metadata and in tables."""
    text = (system / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    card = yaml.safe_load(head)
    assert (card["license"], card["library_name"], card["pipeline_tag"]) == ("mit", "xbuslib", "image-segmentation")
    given = {metric["name"]: metric["value"] for result in card["model-index"][0]["results"]
             for metric in result["metrics"]}
    tables = [pd.read_csv(folder / "per_image.csv", keep_default_na=False, na_values=[""]) for folder in both]
    seen = set()
    for (policy, attributes), _ in tables[0].groupby(["policy", "attributes"]):
        parts = [table[(table.policy == policy) & (table.attributes == attributes)] for table in tables]
        for metric in PAPER + RELEASED:
            means = [part[metric].mean() for part in parts]
            mean, spread = np.mean(means), abs(means[0] - means[1]) / np.sqrt(2)
            name = f"{metric} (prompt: {policy}, attributes: {attributes})"
            assert f"{mean:.4f} ± {spread:.4f}" in body, name
            if policy in ("paper", "reference"):  # knows the reference mask: no result of the model
                assert name not in given and f"| {policy} † |" in body
            else:
                assert given[name] == pytest.approx(mean, abs=1e-6)
                seen.add(name)
    assert seen == set(given) and len(given) == 32
    for words in ("Research use only", "simulated phantom", "by the model's own first pass, no mask",
                  "The profile is smoke, not paper", "Encoders with random weights",
                  "19 of simulated phantom", "The weights: MIT"):
        assert words in body, words


def test_own_data_in_blus_layout_are_neither_called_blu_nor_given_its_licence(both):
    text = card(both, [record.read(folder) | {"dataset": "own"} for folder in both])
    assert "Dataset: own data (licence: not stated; files in the layout of BLU, " in text
    assert "their licence is not stated." in text and "on own data" in yaml.safe_load(text.split("---\n")[1])[
        "model-index"][0]["name"]
    assert "CC BY" not in text and text.count("BLU") == 1


def test_what_an_earlier_publication_did_not_write_is_kept(one, both):
    """A clone of one's repository of the hub, with a thesis in it."""
    (one / ".git").mkdir()
    (one / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (one / "thesis.tex").write_text("Chapter 1")
    with pytest.raises(StudyError, match=r"also holds files that no earlier result wrote: \.git/HEAD, thesis\.tex;"):
        publish(both, one)
    assert (one / "thesis.tex").read_text() == "Chapter 1" and not (one / "fold_1").exists()


def test_an_ancestor_is_said(one, both, tmp_path):
    run = json.loads((both[0] / "run.json").read_text())
    run["ancestors"] = [{"system": "xbusnet", "study": "s", "dataset": "busbra", "images": 1244, "fold": "all",
                         "seed": 0, "identity": "x", "sha256": "y"}]
    folder = shutil.copytree(both[0], tmp_path / "child")
    (folder / "run.json").write_text(json.dumps(run))
    text = (publish([folder], tmp_path / "out") / "README.md").read_text()
    assert "Training started from weights that had seen: BUS-BRA, 1244 images." in text
    assert "BUS-BRA" not in (one / "README.md").read_text()


def test_changed_files_are_refused(one, both, image):
    weights = one / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StudyError, match=r"not as it was published: weights.safetensors was changed"):
        xbuslib.load(one)
    weights.unlink()
    with pytest.raises(StudyError, match="weights.safetensors is missing"):
        xbuslib.load(one)
    weights.write_bytes(content)
    published.verify(one)
    (one / "fold_9").mkdir()
    shutil.copy(both[1] / "run.json", one / "fold_9")
    with pytest.raises(StudyError, match=r"fold_9/run.json is not in SHA256SUMS"):
        published.verify(one)
    shutil.rmtree(one / "fold_9")
    (one / "SHA256SUMS").write_text("abc\n")
    with pytest.raises(StudyError, match="SHA256SUMS is damaged"):
        published.verify(one)


def test_one_run_of_a_published_system_is_checked_too(system, tmp_path):
    own = shutil.copytree(system, tmp_path / "own")
    assert published.local(own / "fold_1" / "seed_0") == own / "fold_1" / "seed_0"
    (own / "fold_1" / "seed_0" / "seen.csv").write_text("case_id\n")
    published.verify(own / "fold_0" / "seed_0")
    for folder in (own, own / "fold_1", own / "fold_1" / "seed_0"):
        with pytest.raises(StudyError, match=r"fold_1/seed_0/seen.csv was changed"):
            published.local(folder)


def test_what_cannot_be_published(both, tmp_path):
    folder = shutil.copytree(both[0], tmp_path / "run")
    (folder / "seen.csv").unlink()
    with pytest.raises(StudyError, match=r"lacks seen.csv"):
        publish([folder], tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(StudyError, match="nothing was overwritten"):
        publish(both, tmp_path / "mine")
    done = command("publish", both[0], "--out", tmp_path / "out", "--push", "no name")
    assert "takes USER/NAME" in str(done.exception) and not (tmp_path / "out").exists()


# ---- the hub --------------------------------------------------------------------------------------------------


def test_pushed_and_pulled(hub, both, image, tmp_path):
    done = command("publish", both[0], "--out", tmp_path / "out", "--push", "me/xbus", "--private", "--json")
    assert done.exit_code == 0, done.output
    address = json.loads(done.stdout.splitlines()[-1])["address"]
    (commit, files), = hub.repositories["me/xbus"]
    assert address == f"hf://me/xbus@{commit}" and hub.private["me/xbus"]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert [path for kind, path in hub.asked if kind == "PUT"]  # the weights went as a large file
    here = xbuslib.load(both[0]).segment(image)
    there = xbuslib.segment(image, run=address)
    assert np.array_equal(here.probability, there.probability)
    asked = len(hub.asked)
    xbuslib.segment(image, run=address)
    assert len(hub.asked) == asked  # no second fetch
    done = command("predict", image, "--run", "hf://me/xbus", "--out", tmp_path / "predicted")
    assert done.exit_code == 0 and (tmp_path / "predicted" / image.stem / "mask.png").is_file(), done.output


def test_a_revision_is_the_one_that_is_taken(hub, both, tmp_path, monkeypatch):
    addresses = [published.push(publish([folder], tmp_path / folder.parent.name), "me/xbus") for folder in both]
    for folder, address in zip(both, addresses, strict=True):
        assert json.loads((published.local(address) / "run.json").read_text())["fold"] == int(folder.parent.name[-1])
    assert json.loads((published.local("hf://me/xbus") / "run.json").read_text())["fold"] == 1
    server_is_gone = published.local(addresses[0])
    hub.close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    published._fetched.cache_clear()
    assert published.local(addresses[0]) == server_is_gone  # from the cache


def test_a_private_push_to_a_public_repository_is_refused(hub, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    (one / "README.md").write_text("card")
    published.push(one, "me/xbus", private=True)  # makes the repository
    published.push(one, "me/xbus", private=True)
    hub.private["me/xbus"] = False  # by its owner, on the hub's page
    with pytest.raises(StudyError, match=r"me/xbus exists on the hub and is public, so nothing was uploaded\. Make it"):
        published.push(one, "me/xbus", private=True)
    assert len(hub.repositories["me/xbus"]) == 2
    published.push(one, "me/xbus")
    assert len(hub.repositories["me/xbus"]) == 3


def test_a_push_of_fewer_runs_leaves_none_of_the_earlier_files(hub, system, one):
    published.push(system, "me/xbus")
    hub.commit("me/xbus", {"notes.txt": b"a person's own"})
    for folder in (one, system):
        there = published.local(published.push(folder, "me/xbus"))
        assert {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()} == {
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert "notes.txt" in hub.repositories["me/xbus"][-1][1]


def test_a_changed_file_of_the_hub_is_refused(hub, one):
    published.push(one, "me/xbus")
    hub.commit("me/xbus", {"run.json": (one / "run.json").read_bytes().replace(b'"seed": 0', b'"seed": 1')})
    with pytest.raises(StudyError, match=r"run.json was changed"):
        published.local("hf://me/xbus")


def test_what_the_hub_refuses(hub, one, monkeypatch):
    hub.repositories["other/model"] = []
    hub.commit("other/model", {"model.bin": b"x" * 100})
    for address, words in (("hf://other/model", "not made by xbuslib publish"), ("hf://me/none", "Check name, rev"),
                           ("hf://other/model@v9", "Check name, revision and"), ("hf://other", "give hf://USER/NAME"),
                           ("hf://a/b/c", "no address of the hub")):
        with pytest.raises(StudyError, match=words):
            published.local(address)
    assert not [path for _, path in hub.asked if path.endswith("model.bin")]
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StudyError, match=r"could not be pushed.*HF_TOKEN"):
        published.push(one, "me/xbus")
    assert "me/xbus" not in hub.repositories
    hub.close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    with pytest.raises(StudyError, match="fetched .*network"):
        published.local("hf://me/offline")


# ---- starting from it -----------------------------------------------------------------------------------------


def test_training_starts_from_it_and_refuses_what_it_has_seen(hub, one, both, phantom_root, outputs):
    """Fold 0 was trained on fold 1's images, so fold 0 may be scored, and fold 1 may not."""
    address = published.push(one, "me/xbus")
    config = resolve("smoke", ["iterations=2", "folds=2"])
    source = open_source("phantom", phantom_root, None, config, "next")
    by_folder, by_hub, by_run = (fold.begin("xbusnet", 0, config, source, study="next", start_from=start)
                                 for start in (one, address, both[0]))
    assert by_folder.run["ancestors"] == by_hub.run["ancestors"] == by_run.run["ancestors"]
    assert by_hub.run["identity"] == by_run.run["identity"]
    with pytest.raises(StudyError, match="has been trained on images that this fold is scored on"):
        fold.begin("xbusnet", 1, config, source, study="next", start_from=address)


def test_a_published_system_gives_its_run_on_all_lesions(both, tmp_path):
    for name in ("fold_all", "fold_0"):
        shutil.copytree(both[0], tmp_path / name / "seed_0")
    assert ancestors.find(tmp_path, "xbusnet", 0) == tmp_path / "fold_all" / "seed_0"
    shutil.rmtree(tmp_path / "fold_all")
    with pytest.raises(StudyError, match="holds no run of xbusnet"):
        ancestors.find(tmp_path, "xbusnet", 0)


def test_a_study_is_given_the_copy_that_was_fetched(hub, one):
    from xbuslib.workflow import study
    from xbuslib.workflow.request import Request

    published.push(one, "me/xbus")
    start = study._start(Request(start_from="hf://me/xbus"))
    assert Path(start).is_absolute() and (Path(start) / "run.json").is_file()
    assert study._start(Request()) == ""
