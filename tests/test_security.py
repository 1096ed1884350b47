"""Names and files from elsewhere: nothing in them is run, no page makes code of them, no small file fills memory."""

import ast
import html
import io
import json
import os
import pickle
import shutil
import struct
import time
import zlib
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from tests.conftest import REPOSITORY
from tests.faults.inputs import dicom_file
from xbuslib.data import masks, pictures
from xbuslib.display import tables
from xbuslib.errors import StudyError
from xbuslib.lesion import page, reading
from xbuslib.lesion.ensemble import user_prompt
from xbuslib.lesion.predict import segment_files
from xbuslib.lesion.widget import Desk, of_file
from xbuslib.models.weights import read_state
from xbuslib.report.page import build
from xbuslib.runs import record
from xbuslib.runs.trained import Trained
from xbuslib.workflow import notebooks

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(1)>"  # the same as a file name may be written
SOURCES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted((REPOSITORY / "xbuslib").rglob("*.py"))}


class Code(HTMLParser):
    """What of a page could run: scripts, event attributes, addresses of javascript; and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.found, self.text, self.policy = [], "", ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.found += [tag] if tag in ("script", "iframe", "object", "embed", "form") else []
        self.found += [name for name, value in attrs if name.startswith("on")
                       or (value or "").strip().lower().startswith("javascript:")]
        named = dict(attrs)
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]

    def handle_data(self, data):
        self.text += data


def harmless(path: Path) -> str:
    """Nothing of a page can run, and its own policy forbids it too; returns its text."""
    code = Code(path)
    assert code.found == [] and "script-src 'none'" in code.policy, (path, code.found)
    return code.text


def test_the_search_for_code_finds_it(tmp_path):
    for text in (SCRIPT, IMAGE, "<a href=' JavaScript:alert(1)'>", "<svg onload=alert(1)>"):
        (tmp_path / "a.html").write_text(text)
        assert Code(tmp_path / "a.html").found


def test_case_names_are_text_in_every_page_of_a_report(smoke_study, tmp_path, monkeypatch):
    """Cases of every run are renamed; a table and an executed notebook show them as the library writes them."""
    folder = tmp_path / smoke_study.name
    shutil.copytree(smoke_study.folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path))
    for run in folder.glob("runs/*/*/seed_*"):
        names = {}
        for file in (run / "cases.csv", run / "per_image.csv"):
            table = pd.read_csv(file, keep_default_na=False, dtype=str)
            for case in sorted(set(table["case_id"])):
                names.setdefault(case, f"{(SCRIPT, IMAGE)[len(names) % 2]}{case}")
            table.assign(case_id=table["case_id"].map(names)).to_csv(file, index=False)
    frame = pd.DataFrame({"case_id": [SCRIPT, IMAGE], "dice": [0.1, 0.2]})
    tables.save(frame, folder / "tables" / "05", "table_1", "Cases")
    outputs = [new_output("display_data", {"text/markdown": tables.markdown(frame, "Cases"), "text/plain": ""}),
               new_output("stream", text=SCRIPT + IMAGE)]
    notebook = new_notebook(cells=[new_markdown_cell("# Which?"), new_code_cell(f"'{SCRIPT}'", outputs=outputs)])
    (folder / "notebooks").mkdir()
    nbformat.write(notebook, folder / "notebooks" / "05_overall_performance.ipynb")
    build(smoke_study.name)
    found = {path.name: harmless(path) for path in (folder / "report").rglob("*.html")}
    assert set(found) == {"index.html", "05_overall_performance.html"}
    assert all(SCRIPT in text and IMAGE in text for text in found.values())  # shown, as what they are


def test_a_file_name_is_text_in_the_page_of_a_prediction(smoke_study, phantom_root, tmp_path):
    source = tmp_path / f"{IMAGE}.png"
    shutil.copy(sorted(phantom_root.rglob("case001.png"))[0], source)
    done, faults = segment_files([source], smoke_study.folder / "runs" / "unet" / "fold_0" / "seed_0", tmp_path / "out",
                                 user_prompt("", "", ""))
    assert not faults and len(done) == 1
    (folder, report), = done.items()
    assert IMAGE in harmless(folder / "report.html")
    image = report.image.model_copy(update={"file": SCRIPT})
    poisoned = report.model_copy(update={"statement": SCRIPT, "image": image})
    text = page.html(poisoned, {"overlay": b""})
    assert "<script" not in text and "&lt;script&gt;" in text


def test_what_is_uploaded_to_the_widget_or_typed_into_it_is_text(smoke_study, phantom_root, tmp_path):
    first = of_file(sorted(phantom_root.rglob("case001.png"))[0], user_prompt("", "", ""))
    desk = Desk([Trained.load(smoke_study.run_folder("unet", 0))], [first])
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(image, format="png")
    for content in (image.getvalue(), b"no image"):
        sent = {"name": f"{IMAGE}.png", "type": "", "size": len(content), "content": memoryview(content),
                "last_modified": datetime(2026, 1, 1, tzinfo=UTC)}
        desk.upload.value = (sent,)
        assert (content == b"no image") == (html.escape(IMAGE) in desk.fault.value)
        desk.pixel_mm.value = SCRIPT + str(len(content))  # another text each time
        assert html.escape(SCRIPT) in desk.fault.value
        (tmp_path / "shown.html").write_text("".join(part.value for part in (desk.prompts, desk.fault, desk.measured)))
        assert Code(tmp_path / "shown.html").found == []


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is width × height pixels."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b""))


def tiff_bomb() -> bytes:
    """A small TIFF whose header is changed to 60000 rows and columns."""
    content = io.BytesIO()
    Image.new("L", (40, 41)).save(content, "TIFF")
    changed = content.getvalue()
    for tag, side in ((256, 40), (257, 41)):
        changed = changed.replace(struct.pack("<HHII", tag, 4, 1, side), struct.pack("<HHII", tag, 4, 1, 60000))
    return changed


def dicom_bomb() -> bytes:
    data = pydicom.dcmread(io.BytesIO(dicom_file()))
    data.Rows = data.Columns = 65535
    content = io.BytesIO()
    data.save_as(content)
    return content.getvalue()


@pytest.mark.parametrize(("name", "content"), [("a.png", bomb(60000, 60000)), ("a.png", bomb(8193, 40)),
                                               ("a.tif", tiff_bomb()), ("a.dcm", dicom_bomb())])
def test_picture_bombs_are_refused_before_they_are_unpacked(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    assert len(content) < 5000
    began = time.monotonic()
    for read in (reading.read, *((pictures.decode, masks.read) if name != "a.dcm" else ())):
        with pytest.raises(StudyError, match=r"(?s)a\.(png|tif|dcm).*8192"):
            read(path)
    assert time.monotonic() - began < 5


class Payload:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_files_of_weights_and_maps_run_nothing(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.is_dir()  # it would
    mark.rmdir()
    torch.save({"a": Payload(mark)}, tmp_path / "w.pth")
    (tmp_path / "w.bin").write_bytes(pickle.dumps({"a": Payload(mark)}))
    for name in ("w.pth", "w.bin"):
        with pytest.raises(StudyError, match=r"cannot read weights"):
            read_state(tmp_path / name)
    values = np.empty(1, object)
    values[0] = Payload(mark)
    np.savez(tmp_path / "probabilities.npz", case_ids=np.array(["a"]), probabilities=values)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        record.probabilities(tmp_path)
    assert not mark.exists()


def calls(name: str) -> list[tuple[Path, ast.Call]]:
    """Every call of a function by its dotted name, in the library."""
    return [(path, node) for path, tree in SOURCES.items() for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def test_nothing_is_unpickled():
    imported = {(path.name, alias.name) for path, tree in SOURCES.items() for node in ast.walk(tree)
                if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
                if (getattr(node, "module", None) or alias.name).split(".")[0] in
                ("pickle", "dill", "joblib", "shelve", "marshal", "cloudpickle")}
    assert imported == set()
    loads = calls("torch.load")
    assert len(loads) >= 2
    for path, call in loads:
        assert {word.arg: ast.unparse(word.value) for word in call.keywords}["weights_only"] == "True", path
    allowed = [word.value for _, call in calls("np.load") for word in call.keywords if word.arg == "allow_pickle"]
    assert all(ast.unparse(value) == "False" for value in allowed)
    assert not calls("pd.read_pickle")


def test_no_port_is_open_beyond_this_machine(tmp_path, monkeypatch):
    """The kernel of a notebook is the one process that listens; nothing in the library does by itself."""
    cell = ("import json, psutil\njson.dump([port.laddr.ip for port in psutil.Process().net_connections() "
            f"if port.status == 'LISTEN'], open({str(tmp_path / 'ports.json')!r}, 'w'))")
    (tmp_path / "notebooks").mkdir()
    notebook = new_notebook(cells=[new_code_cell(cell)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "notebooks" / "99_ports.ipynb")
    monkeypatch.setattr(notebooks, "REPOSITORY", tmp_path)
    notebooks.execute("99_ports", tmp_path / "out.ipynb", {})
    found = json.loads((tmp_path / "ports.json").read_text())
    assert found and set(found) <= {"127.0.0.1", "::1"}
    names = {node.attr for tree in SOURCES.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"bind", "listen", "serve_forever", "create_server", "run_app"}


def test_no_shell_and_no_code_is_built_from_text():
    assert not [call for name in ("os.system", "os.popen", "eval", "exec", "yaml.load", "subprocess.getoutput")
                for call in calls(name)]
    shells = [path for path, tree in SOURCES.items() for node in ast.walk(tree)
              if isinstance(node, ast.keyword) and node.arg == "shell"]
    assert shells == [] and len(calls("subprocess.run")) >= 2
