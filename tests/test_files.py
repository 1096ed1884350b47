"""What a killed write leaves beside its target is removed by the next one, and nothing else is."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from xbuslib import files
from xbuslib.errors import StudyError

KILLED = """
import os, signal, sys
from pathlib import Path
from xbuslib.files import write_folder, write_whole
how, path = sys.argv[1], Path(sys.argv[2])
if how == "file":
    with write_whole(path) as partial:
        partial.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
replace = os.replace
def killed(source, target):
    if Path(target) == path:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed if how == "replaced" else replace
with write_folder(path, "mark") as partial:
    (partial / "mark").write_text("half")
    if how == "folder":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(how, path):
    """Begin to write `path` in a process that is killed at it; returns the process id and the names that it left."""
    before = set(os.listdir(path.parent))
    process = subprocess.Popen([sys.executable, "-c", KILLED, how, str(path)], cwd=REPOSITORY)
    assert process.wait() == -signal.SIGKILL
    return process.pid, set(os.listdir(path.parent)) - before


def write_again(path):
    if path.suffix:
        with files.write_whole(path) as partial:
            partial.write_text("whole")
    else:
        with files.write_folder(path, "mark") as partial:
            (partial / "mark").write_text("whole")


@pytest.mark.parametrize(("how", "name"), [("file", "scores [1].csv"), ("folder", "prepared")])
def test_the_next_write_removes_what_killed_ones_left(how, name, tmp_path):
    path = tmp_path / name
    left = [killed(how, path), killed(how, path)]
    assert [len(names) for _, names in left] == [1, 1] and not path.exists()
    write_again(path)
    assert os.listdir(tmp_path) == [name]


def test_the_earlier_folder_stays_until_the_new_one_is_there(tmp_path):
    """The process is killed after the earlier folder was moved away."""
    path = tmp_path / "prepared"
    write_again(path)
    _, left = killed("replaced", path)
    assert {name.rpartition(".")[2] for name in left} == {"partial", "old"} and not path.exists()
    with pytest.raises(ZeroDivisionError), files.write_folder(path, "mark"):
        raise ZeroDivisionError
    old, = tmp_path.iterdir()
    assert old.suffix == ".old" and (old / "mark").read_text() == "whole"
    write_again(path)
    assert os.listdir(tmp_path) == ["prepared"]


def test_what_no_earlier_result_wrote_is_kept(tmp_path):
    path = tmp_path / "result"
    for folder in (".git", "c"):
        (path / folder).mkdir(parents=True)
    for name in ("mark", "a.csv", ".git/HEAD", "b.csv", "c/a.csv"):
        (path / name).write_text("earlier")
    with (pytest.raises(StudyError, match=r"wrote: \.git/HEAD, b\.csv, c/a\.csv; nothing was"),
          files.write_folder(path, "mark", ["mark", "a.*"])):
        pass
    assert (path / "mark").read_text() == (path / "c" / "a.csv").read_text() == "earlier"
    with files.write_folder(path, "mark", ["mark", "*.csv", ".git/*", "c/*"]) as partial:
        (partial / "mark").write_text("new")
    assert os.listdir(path) == ["mark"] and (path / "mark").read_text() == "new"


def test_a_link_stays_and_the_folder_that_it_names_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "result", target_is_directory=True)
    for _ in range(2):
        write_again(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "result" / "mark").read_text() == "whole"
    assert os.listdir(tmp_path / "disk") == ["result"] and set(os.listdir(tmp_path)) == {"disk", "link"}


def test_the_earlier_folder_is_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path, replace = tmp_path / "result", os.replace
    write_again(path)

    def fails(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(StudyError, match="cannot write .*Input/output error"), files.write_folder(path, "mark") as new:
        (new / "mark").write_text("new")
    assert os.listdir(tmp_path) == ["result"] and (path / "mark").read_text() == "whole"


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_the_current_folder_is_not_replaced(place, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(StudyError, match="is the current folder, holds it"), files.write_folder(Path(place)):
        pass


@pytest.mark.parametrize("how, name", [("file", "a.csv"), ("folder", "prepared")])
def test_what_may_be_of_a_process_at_work_stays(how, name, tmp_path):
    """A process that runs, another machine's, another target's, and a file that a person named so."""
    path = tmp_path / name
    pid, (left,) = killed(how, path)
    kept = [left.replace(str(pid), str(os.getppid())), left.replace(files._machine(), "0" * 8),
            left.replace(".a.", ".b.").replace(".prepared.", ".prepared_b."), left.replace(str(pid), "old")]
    (tmp_path / left).rename(tmp_path / kept[0])
    for other in kept[1:]:
        (tmp_path / other).write_text("")
    write_again(path)
    assert sorted(os.listdir(tmp_path)) == sorted([name, *kept])


def test_a_left_folder_with_the_id_of_this_process_is_in_nobodys_way(tmp_path):
    """In a container that starts anew, ids begin anew."""
    pid, (left,) = killed("folder", tmp_path / "prepared")
    (tmp_path / left).rename(tmp_path / left.replace(f".{pid}.", f".{os.getpid()}."))
    write_again(tmp_path / "prepared")
    assert os.listdir(tmp_path) == ["prepared"] and os.listdir(tmp_path / "prepared") == ["mark"]


def test_another_container_of_the_same_host_is_another_machine(monkeypatch):
    names = set()
    for host, processes in (("a", "pid:[1]"), ("a", "pid:[2]"), ("b", "pid:[1]")):
        monkeypatch.setattr(files.socket, "gethostname", lambda host=host: host)
        monkeypatch.setattr(files.os, "readlink", lambda _, processes=processes: processes)
        names.add(files._machine.__wrapped__())
    assert len(names) == 3
