"""Fetching BLU, from a server on this machine: whole, resumed, broken off, and not what it should be."""

import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from xbuslib.data import blu
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


def test_no_server(tmp_path):
    with pytest.raises(StudyError, match=r"cannot fetch http://127.0.0.1:9/.*Run this again to go on"):
        download_blu(tmp_path, "http://127.0.0.1:9/")
