"""What a study is asked for: flags and study file in one model, ranges of numbers, the file that repeats a study."""

import shlex
from types import SimpleNamespace

import pytest

from xbuslib.errors import StudyError
from xbuslib.models import registry
from xbuslib.workflow import outcome
from xbuslib.workflow.request import request, whole_numbers, write


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("profile: smoke\nsystems: [unet, xbusnet]\nseeds: 0-2\nset: {iterations: 7, weights: random}\n")
    found = request({"seeds": "4", "dataset": "phantom"}, file)
    assert (found.profile, found.systems, found.seeds) == ("smoke", ["unet", "xbusnet"], [4])
    assert found.overrides == ["iterations=7", "weights=random"] and found.name == "phantom-smoke"


def test_one_setting_given_leaves_the_others_of_the_file(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("profile: smoke\nset: {iterations: 7, recipe: strong}\n")
    assert request({"set": {"iterations": 9}}, file).set == {"iterations": 9, "recipe": "strong"}


def test_defaults_are_those_of_the_command():
    found = request({})
    assert (found.profile, found.systems, found.seeds, found.folds) == ("quick", registry.names(), [0], "")


@pytest.mark.parametrize("text, numbers", [("0", [0]), ("0-4", [0, 1, 2, 3, 4]), ("0,2,5-7", [0, 2, 5, 6, 7]),
                                           (" 3 , 1 ", [1, 3]), ("7-7", [7]), ("0-999", list(range(1000)))])
def test_numbers_and_ranges(text, numbers):
    assert whole_numbers(text, "--seeds") == numbers == request({"seeds": text}).seeds


@pytest.mark.parametrize("text", ["a", "1-", "-1", "0,,1", "1.5"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(StudyError, match="is no list of numbers"):
        request({"seeds": text})


@pytest.mark.parametrize("key", ["seeds", "folds"])
@pytest.mark.parametrize("asked, words", [("1-0", "the range 1-0 counts down; write the smaller number first"),
                                          ("4,0-99999999999", "0-99999999999 has more than 1000 numbers"),
                                          ([], r"\[\] is no list of numbers"), ([0, -1], "is no list of numbers")])
def test_numbers_that_nobody_means_are_refused(key, asked, words):
    """Not read as every fold, and not counted up to."""
    with pytest.raises(StudyError, match=f"(?s)cannot be run as asked.*{key}: .*{words}"):
        request({key: asked})


@pytest.mark.parametrize("none", [[], "", " , "])
def test_no_system_is_refused(none):
    with pytest.raises(StudyError, match="systems: no system is named; the systems are unet, "):
        request({"systems": none})


def test_all_faults_are_in_one_message(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("datset: blu\nprofile: fast\njobs: -1\n")
    with pytest.raises(StudyError) as refused:
        request({}, file)
    for words in ("study.yaml", "unknown key 'datset'; did you mean 'dataset'?", "unknown profile 'fast'", "jobs: "):
        assert words in str(refused.value)


@pytest.mark.parametrize("content, words", [("a: [", "is no YAML"), ("", "holds no keys"), ("- 1", "holds no keys")])
def test_files_that_say_nothing_are_refused(tmp_path, content, words):
    file = tmp_path / "study.yaml"
    file.write_text(content)
    with pytest.raises(StudyError, match=words):
        request({}, file)


def test_the_written_file_repeats_the_request(tmp_path):
    given = {"profile": "smoke", "systems": "unet", "folds": "0-1", "set": {"amp": False, "recipe": "strong",
                                                                           "learning_rate": 1e-3}, "seeds": "0,3"}
    first = request(given)
    write(first, tmp_path / "study.yaml")
    again = request({}, tmp_path / "study.yaml")
    assert again.model_dump() == first.model_dump() | {"study": "phantom-smoke"}
    assert again.overrides == ["amp=false", "recipe=strong", "learning_rate=0.001"]


def test_the_printed_command_that_repeats_it_can_be_pasted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "my results"))
    outcome.say_results(SimpleNamespace(study="own", folds=[outcome.ALL]), True, as_json=False)
    printed = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(printed.removeprefix("Repeat it: ")) == [
        "./run_all.sh", "--config", str(tmp_path / "my results" / "own" / "study.yaml")]


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", "/tmp/x"])
def test_a_study_is_called_by_a_name_and_no_path(name):
    with pytest.raises(StudyError, match="is no name for a folder"):
        request({"study": name})
    assert request({"study": "größe 2.b_c+d-e"}).name == "größe 2.b_c+d-e"
