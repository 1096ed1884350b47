"""Fetching BLU, from a server on this machine: whole, resumed, broken off, and not what it should be."""

import contextlib
import io
import random
import shutil
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pandas as pd
import pytest

from xbuslib.data import blu, download
from xbuslib.data.download import download_blu
from xbuslib.errors import StudyError


def published():
    """Stand-ins with the published counts: 522 PNG members, 256 rows of 21 columns."""
    table, archive = io.BytesIO(), io.BytesIO()
    pd.DataFrame({column: range(256) for column in blu.COLUMNS}).to_excel(table, index=False)
    with zipfile.ZipFile(archive, "w") as packed:
        for n in range(522):
            packed.writestr(f"{blu.IMAGES}/case{n:03d}.png", bytes([n % 256]) * 50)
    return {blu.TABLE: table.getvalue(), blu.ARCHIVE: archive.getvalue()}


@pytest.fixture
def server():
    """(address, files, requests): serves `files`, understands Range, and remembers what it was asked."""
    files, asked = published(), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.lstrip("/")
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            asked.append((name, start))
            content = files[name][start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/", files, asked
    httpd.shutdown()


def test_fetched_whole_and_only_once(server, tmp_path):
    address, files, asked = server
    assert download_blu(tmp_path, address) == tmp_path
    assert len(list((tmp_path / blu.IMAGES).glob("*.png"))) == 522
    assert (tmp_path / blu.TABLE).read_bytes() == files[blu.TABLE]
    download_blu(tmp_path, address)
    assert asked == [(blu.TABLE, 0), (blu.ARCHIVE, 0)]


def test_goes_on_where_it_was_broken_off(server, tmp_path):
    address, files, asked = server
    (tmp_path / f".{blu.ARCHIVE}.partial").write_bytes(files[blu.ARCHIVE][:1000])
    download_blu(tmp_path, address)
    assert (blu.ARCHIVE, 1000) in asked
    assert (tmp_path / blu.ARCHIVE).read_bytes() == files[blu.ARCHIVE]
    assert not list(tmp_path.glob(".*partial"))


def test_what_is_not_the_published_file_is_refused(server, tmp_path):
    address, files, _ = server
    files[blu.ARCHIVE] = b"<html>moved</html>"
    with pytest.raises(StudyError, match="is not the published file"):
        download_blu(tmp_path, address)
    assert not (tmp_path / blu.ARCHIVE).exists() and not (tmp_path / blu.IMAGES).exists()


@pytest.mark.parametrize("name", [blu.TABLE, blu.ARCHIVE])
def test_a_file_of_ones_own_under_a_published_name_is_kept(server, tmp_path, name):
    """A table without four of its rows, a damaged archive."""
    address, files, asked = server
    own = io.BytesIO()
    pd.DataFrame({column: range(252) for column in blu.COLUMNS}).to_excel(own, index=False)
    content = own.getvalue() if name == blu.TABLE else files[name][:2000]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=rf"{name} is not the published file; it was left as it is\. Move it"):
        download_blu(tmp_path, address)
    assert (tmp_path / name).read_bytes() == content and name not in [fetched for fetched, _ in asked]
    (tmp_path / "mine").mkdir()
    shutil.move(tmp_path / name, tmp_path / "mine" / name)
    download_blu(tmp_path, address)
    assert (tmp_path / name).read_bytes() == files[name]


def test_no_server(tmp_path):
    with pytest.raises(StudyError, match=r"cannot fetch http://127.0.0.1:9/.*Run this again to go on"):
        download_blu(tmp_path, "http://127.0.0.1:9/")


class Bad(BaseHTTPRequestHandler):
    """A server that does what its `way` says with the first request for a file, and behaves after that."""

    files: ClassVar[dict] = {}
    way: ClassVar[str] = ""
    asked: ClassVar[list] = []

    def do_GET(self):
        name = self.path.lstrip("/")
        first = name == blu.ARCHIVE and name not in self.asked
        self.asked.append(name)
        content = self.files.get(name, b"")
        if first and self.way == "redirects":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.asked.remove(name)  # for ever
            self.end_headers()
            return
        self.send_response(200)
        if first and self.way in ("html", "html without length"):
            content = b"<!DOCTYPE html><html>sign in</html>"
        if not (first and self.way in ("html without length", "endless")):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if first and self.way in ("truncates", "stalls"):
            self.wfile.write(content[:len(content) // 2])
            self.wfile.flush()
            if self.way == "stalls":
                time.sleep(1.5)
            self.close_connection = True
        elif first and self.way == "corrupts":
            middle = len(content) // 3
            self.wfile.write(content[:middle] + bytes(byte ^ 0x55 for byte in content[middle:middle + 40])
                             + content[middle + 40:])
        elif first and self.way == "endless":
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(bytes(1 << 16))
        else:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize(("way", "words"), [
    ("truncates", "cannot fetch"), ("stalls", "cannot fetch .*timed out"), ("redirects", "cannot fetch .*redirects"),
    ("html", "is not the published file"), ("html without length", "is not the published file"),
    ("corrupts", "is not the published file"), ("endless", "cannot fetch .*sends more than")])
def test_a_server_that_misbehaves_ends_in_a_message_and_the_same_call_goes_on(way, words, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "STALLED", 0.5)
    monkeypatch.setattr(download, "LARGEST", 4 << 20)
    handler = type("Handler", (Bad,), {"files": deflated(), "way": way, "asked": []})
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}/"
    try:
        with pytest.raises(StudyError, match=f"(?s){words}"):
            download_blu(tmp_path, address)
        assert (tmp_path / blu.TABLE).read_bytes() == handler.files[blu.TABLE]  # what was fetched before is whole
        assert not (tmp_path / blu.ARCHIVE).exists() and not (tmp_path / blu.IMAGES).exists()
        handler.way = ""
        download_blu(tmp_path, address)
    finally:
        httpd.shutdown()
    assert (tmp_path / blu.ARCHIVE).read_bytes() == handler.files[blu.ARCHIVE]
    assert len(list((tmp_path / blu.IMAGES).glob("*.png"))) == 522


def deflated():
    """The published stand-ins with a compressed archive, in which damage meets the decompressor."""
    files, archive = published(), io.BytesIO()
    noise = random.Random(0)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for n in range(522):
            packed.writestr(f"{blu.IMAGES}/case{n:03d}.png", bytes(noise.choices(range(8), k=200)))
    return files | {blu.ARCHIVE: archive.getvalue()}


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot write to .*file/blu: .*another --root"):
        download_blu(tmp_path / "file" / "blu", "http://127.0.0.1:9/")


@pytest.mark.parametrize(("name", "words"), [
    ("../case001.png", "would lie outside"), ("/tmp/case001.png", "would lie outside"),
    ("a/..\\..\\case001.png", "would lie outside"), ("C:\\case001.png", "would lie outside"),
    ("b/case000.png", "are there twice")])
def test_an_archive_with_foreign_paths_is_refused_and_nothing_is_written(name, words, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("images/case000.png", b"x")
        packed.writestr(name, b"x")
    with pytest.raises(StudyError, match=words):
        blu.unpack(tmp_path / "a.zip", tmp_path / "images")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(blu, "LARGEST", 1 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("images/case000.png", bytes((1 << 20) + 1))
    assert (tmp_path / "a.zip").stat().st_size < 5000
    with pytest.raises(StudyError, match="more than 1 MB"):
        blu.unpack(tmp_path / "a.zip", tmp_path / "images")
    assert not (tmp_path / "images").exists()
