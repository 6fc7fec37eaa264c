"""Downloads against a server of our own that breaks connections, changes files and ignores ranges, as servers do."""

from __future__ import annotations

import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from d2s.cli import main
from d2s.errors import D2SError, DownloadError, FormatError, InputError
from processing import download, download_archive, download_http
from processing.download_archive import unpack
from processing.download_http import fetch
from processing.download_sources import SOURCES, ByHand, Item, Source

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Served:
    """A file and how badly it is served. `breaks`: bytes after which the first connections end. `delay`: seconds per 8 kB."""

    data: bytes
    etag: str | None = '"1"'
    last_modified: str | None = None
    breaks: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    ranges: bool = True
    if_range: bool = True
    announce: bool = True
    wrong_start: int = 0
    delay: float = 0.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append({**self.headers, "path": self.path})
        served = self.server.files.get(self.path)
        if served is None or served.errors:
            self.send_error(served.errors.pop(0) if served else 404)
            return
        start = self.wanted(served)
        if start >= len(served.data) and start > 0:
            self.send_error(416)
            return
        body = served.data[start:]
        self.send_response(206 if start else 200)
        if start:
            begin = start + served.wrong_start
            self.send_header("Content-Range", f"bytes {begin}-{len(served.data) - 1}/{len(served.data)}")
        if served.announce:
            self.send_header("Content-Length", str(len(body)))
        for name, value in (("ETag", served.etag), ("Last-Modified", served.last_modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        end = served.breaks.pop(0) if served.breaks else len(body)
        for i in range(0, min(end, len(body)), 8192):
            piece = body[i : min(i + 8192, end)]
            self.server.sent += len(piece)  # before the client can have it, and look
            self.wfile.write(piece)
            time.sleep(served.delay)
        self.close_connection = True

    def wanted(self, served):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        validator = self.headers.get("If-Range")
        changed = served.if_range and validator is not None and validator not in (served.etag, served.last_modified)
        return int(match[1]) if match and served.ranges and not changed else 0


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.sent = {}, [], 0
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def data():
    return np.random.default_rng(0).bytes(300_000)


def no_wait(_):
    pass


def begin(server, name, path, data, have, **offer):
    """Leave what an interrupted run leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".part").write_bytes(data[:have])
    note = {"url": f"{server.url}/{name}", "etag": '"1"', "last_modified": None, "size": len(data), **offer}
    path.with_name(path.name + ".part.json").write_text(json.dumps(note))


def test_whole_file(server, data, tmp_path):
    server.files["/a.zip"] = Served(data)
    fetch(f"{server.url}/a.zip", tmp_path / "deep" / "a.zip")
    assert (tmp_path / "deep" / "a.zip").read_bytes() == data
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.zip"]
    assert server.requests[0]["Accept-Encoding"] == "identity" and "Range" not in server.requests[0]


def test_broken_connections_are_continued(server, data, tmp_path):
    server.files["/a.zip"] = Served(data, breaks=[100_000, 0, 50_000], errors=[503])
    waits = []
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip", wait=waits.append)
    assert (tmp_path / "a.zip").read_bytes() == data
    assert server.sent == len(data), "no byte is sent twice"
    assert [r.get("Range") for r in server.requests[1:]] == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert server.requests[-1]["If-Range"] == '"1"'
    assert waits == [2, 1, 2, 1], "progress resets the back-off"


def test_gives_up_after_retries_without_progress_and_goes_on_later(server, data, tmp_path):
    server.files["/a.zip"] = Served(data, breaks=[70_000, 0, 0, 0])
    with pytest.raises(DownloadError, match="connection ended after 70000 of 300000 bytes.*Run the same command again"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip", retries=2, wait=no_wait)
    assert not (tmp_path / "a.zip").exists()
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip", wait=no_wait)
    assert (tmp_path / "a.zip").read_bytes() == data and server.sent == len(data)


def test_no_server_is_one_clear_error(tmp_path):
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", retries=1, wait=no_wait)


def test_missing_file_is_not_tried_again(server, tmp_path):
    with pytest.raises(DownloadError, match="answers 404"):
        fetch(f"{server.url}/none.zip", tmp_path / "none.zip", wait=lambda _: pytest.fail("waited"))
    assert len(server.requests) == 1


def test_only_http_addresses(tmp_path):
    with pytest.raises(InputError, match="not an http address"):
        fetch("file:///etc/passwd", tmp_path / "a")


@pytest.mark.parametrize(
    "served",
    [
        {},  # If-Range makes the server send everything
        {"if_range": False},  # 206 with another ETag
        {"if_range": False, "wrong_start": -5},
        {"ranges": False},
        {"etag": None},
    ],
)
def test_changed_file_is_begun_anew(server, data, tmp_path, served):
    server.files["/a.zip"] = Served(data, **{"etag": '"2"', **served})
    begin(server, "a.zip", tmp_path / "a.zip", bytes(len(data) - 7), 100_000, size=len(data) - 7)
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip", wait=no_wait)
    assert (tmp_path / "a.zip").read_bytes() == data


def test_changed_file_of_the_same_size_is_told_by_its_date(server, data, tmp_path):
    new = "Tue, 02 Jan 2024 00:00:00 GMT"
    server.files["/a.zip"] = Served(data, etag=None, last_modified=new, if_range=False)
    old = bytes(len(data))
    begin(server, "a.zip", tmp_path / "a.zip", old, 100_000, etag=None, last_modified="Mon, 01 Jan 2024 00:00:00 GMT")
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip", wait=no_wait)
    assert (tmp_path / "a.zip").read_bytes() == data


def test_part_of_another_address_is_not_continued(server, data, tmp_path):
    server.files["/b.zip"] = Served(data)
    begin(server, "a.zip", tmp_path / "x.zip", bytes(len(data)), 100_000)
    fetch(f"{server.url}/b.zip", tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == data


def test_weak_etag_is_not_sent_as_a_condition(server, data, tmp_path):
    server.files["/a.zip"] = Served(data, etag='W/"1"', breaks=[100_000])
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip", wait=no_wait)
    assert "If-Range" not in server.requests[1] and (tmp_path / "a.zip").read_bytes() == data


def test_damaged_note_begins_anew(server, data, tmp_path):
    server.files["/a.zip"] = Served(data)
    begin(server, "a.zip", tmp_path / "a.zip", bytes(len(data)), 100_000)
    (tmp_path / "a.zip.part.json").write_text("{")
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == data


def test_part_that_is_too_long_begins_anew(server, data, tmp_path):
    server.files["/a.zip"] = Served(data)
    begin(server, "a.zip", tmp_path / "a.zip", data + b"more", len(data) + 4, size=len(data))
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip", wait=no_wait)
    assert (tmp_path / "a.zip").read_bytes() == data


def test_killed_before_the_rename_needs_no_request(server, data, tmp_path):
    begin(server, "a.zip", tmp_path / "a.zip", data, len(data))
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == data and not server.requests


def test_file_of_unknown_size(server, data, tmp_path):
    server.files["/a.zip"] = Served(data, announce=False)
    fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == data


def test_progress_is_lines_or_a_bar(server, data, tmp_path, monkeypatch, caplog, capsys):
    server.files["/a.zip"] = Served(data)
    monkeypatch.setattr("processing.progress.LINE_SECONDS", 0.0)
    with caplog.at_level("INFO"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert "a.zip: 0.3 MB of 0.3 MB" in caplog.text
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(f"{server.url}/a.zip", tmp_path / "b.zip")
    assert "b.zip" in capsys.readouterr().err and (tmp_path / "b.zip").read_bytes() == data


def test_full_disk_is_said_before_the_download(server, data, tmp_path, monkeypatch):
    server.files["/a.zip"] = Served(data)
    monkeypatch.setattr(download_http, "SPARE_BYTES", 1 << 60)
    with pytest.raises(InputError, match="a.zip needs 0.3 MB in .*Make room"):
        fetch(f"{server.url}/a.zip", tmp_path / "a.zip")


def test_killed_download_is_continued_to_an_equal_file(server, data, tmp_path):
    server.files["/a.zip"] = Served(data, delay=0.05)
    path = tmp_path / "a.zip"
    code = f"from pathlib import Path; from processing.download_http import fetch; fetch({server.url + '/a.zip'!r}, Path({str(path)!r}))"
    # Small chunks, so that there is something on disk to be killed over.
    code = f"import processing.download_http as h; h.CHUNK = 16384; {code}"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "a.zip.part"
    end = time.monotonic() + 120
    while not (part.is_file() and part.stat().st_size > 40_000):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    have = part.stat().st_size
    assert process.returncode == -signal.SIGKILL and not path.exists() and 0 < have < len(data)
    server.files["/a.zip"].delay = 0.0
    fetch(f"{server.url}/a.zip", path)
    assert path.read_bytes() == data
    assert server.requests[-1]["Range"] == f"bytes={have}-"


# Archives


def archive_of(files, top="chess/"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{top}{name}", content)
    return buffer.getvalue()


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


SEQUENCES = {f"seq-0{i}": {f"seq-0{i}/frame-{j:06d}.pose.txt": f"{i} {j}".encode() for j in range(3)} for i in (1, 2)}
CHESS = {"TrainSplit.txt": b"sequence1\n", **{name: text for files in SEQUENCES.values() for name, text in files.items()}}


def chess_zip():
    """As the public archive: the sequences are archives in the archive."""
    inner = {f"{name}.zip": archive_of(files, top="") for name, files in SEQUENCES.items()}
    return archive_of({"TrainSplit.txt": b"sequence1\n", **inner})


def test_unpacks_the_archives_in_the_archive(tmp_path):
    (tmp_path / "a.zip").write_bytes(chess_zip())
    unpack(tmp_path / "a.zip", tmp_path / "7scenes" / "chess")
    assert contents(tmp_path / "7scenes" / "chess") == CHESS
    assert [path.name for path in (tmp_path / "7scenes").iterdir()] == ["chess"]


def test_archive_without_a_top_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive_of({"12:30.txt": "1", "b/c.txt": "2", "__MACOSX/x": "3"}, top=""))
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == {"12:30.txt": b"1", "b/c.txt": b"2"}


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil", "a/../../evil", "..\\evil.txt", "C:\\evil.txt"])
@pytest.mark.parametrize("nested", [False, True])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name, nested):
    inner = archive_of({name: "x"}, top="")
    (tmp_path / "a.zip").write_bytes(archive_of({"inner.zip": inner}) if nested else inner)
    with pytest.raises(FormatError, match="leads out of its folder"):
        unpack(tmp_path / "a.zip", tmp_path / "deep" / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "deep"]


def test_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc")
    with pytest.raises(FormatError, match="leads out"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_one_wrong_bit_is_found_and_nothing_appears(tmp_path):
    damaged = bytearray(archive_of({"a.bin": np.random.default_rng(1).bytes(5000)}))
    damaged[2000] ^= 1
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(FormatError, match="damaged"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_leftovers_of_a_killed_unpacking_are_removed(tmp_path):
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "old").write_text("old")
    (tmp_path / "a.zip").write_bytes(chess_zip())
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert contents(tmp_path / "out") == CHESS


def test_unpacking_asks_for_space_first(tmp_path, monkeypatch):
    (tmp_path / "a.zip").write_bytes(chess_zip())
    monkeypatch.setattr(download_http, "SPARE_BYTES", 1 << 60)
    with pytest.raises(InputError, match="Unpacking a.zip needs"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The command


@pytest.fixture
def toy(server, monkeypatch):
    """A data set with two scenes on our server; the poses are a text file in two halves."""
    pgt = Item((f"{server.url}/train.txt", f"{server.url}/test.txt"), "toy/chess/pgt_sfm.txt")
    scenes = {"chess": (Item((f"{server.url}/chess.zip",), "toy/chess"), pgt), "fire": (Item((f"{server.url}/fire.zip",), "toy/fire"),)}
    hand = ByHand("models", "https://example.org/models", "toy/models")
    monkeypatch.setitem(SOURCES, "toy", Source("Toy", "https://example.org", "public domain", scenes, (hand,)))
    server.files.update(
        {
            "/chess.zip": Served(chess_zip()),
            "/fire.zip": Served(archive_of({"a.txt": "fire"}, "fire/")),
            "/train.txt": Served(b"a 1 0 0 0 0 0 0 500"),
            "/test.txt": Served(b"b 1 0 0 0 0 0 0 500\n"),
        }
    )
    return server


POSES = {"pgt_sfm.txt": b"a 1 0 0 0 0 0 0 500\nb 1 0 0 0 0 0 0 500\n"}


def test_one_scene_from_the_command_line(toy, tmp_path, capsys):
    assert main(["download", "toy", "chess", "--dataset_dir", str(tmp_path)]) == 0
    assert contents(tmp_path / "toy" / "chess") == {**CHESS, **POSES}
    assert not (tmp_path / "toy" / "fire").exists()
    assert not [path for path in (tmp_path / ".downloads").iterdir() if not path.name.endswith(".sha256.json")]
    output = capsys.readouterr().out
    assert output.index("Licence: public domain") < output.index("Downloading")
    assert f"by hand if you need it: models: https://example.org/models, to {tmp_path / 'toy' / 'models'}" in output
    count = len(toy.requests)
    assert main(["download", "toy", "chess", "--dataset_dir", str(tmp_path)]) == 0
    assert len(toy.requests) == count and "is there already" in capsys.readouterr().out


def test_all_scenes_with_their_archives(toy, tmp_path):
    assert main(["download", "toy", "--dataset_dir", str(tmp_path), "--keep_archives"]) == 0
    assert (tmp_path / "toy" / "fire" / "a.txt").read_text() == "fire"
    assert (tmp_path / ".downloads" / "toy_fire__fire.zip").is_file()


def test_the_first_checksum_is_noted_and_compared(toy, tmp_path, capsys):
    assert main(["download", "toy", "fire", "--dataset_dir", str(tmp_path)]) == 0
    record = tmp_path / ".downloads" / "toy_fire__fire.zip.sha256.json"
    assert json.loads(record.read_text())["sha256"] == hashlib.sha256(toy.files["/fire.zip"].data).hexdigest()
    (tmp_path / "toy" / "fire" / "a.txt").unlink()
    (tmp_path / "toy" / "fire").rmdir()
    toy.files["/fire.zip"].data = archive_of({"a.txt": "another"}, "fire/")
    assert main(["download", "toy", "fire", "--dataset_dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "is not the file that was downloaded before" in error and str(record) in error and error.count("\n") == 1
    assert not (tmp_path / "toy" / "fire").exists()


def test_published_checksum_is_kept_to(toy, tmp_path, monkeypatch):
    item = Item(SOURCES["toy"].scenes["fire"][0].urls, "toy/fire", sha256="0" * 64)
    with pytest.raises(DownloadError, match="is not the file that was published"):
        download.install(item, tmp_path, keep_archives=False)


def test_damaged_archive_is_removed_and_downloaded_anew(toy, tmp_path, capsys):
    good = toy.files["/fire.zip"].data
    toy.files["/fire.zip"].data = good[:-30]
    assert main(["download", "toy", "fire", "--dataset_dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "is damaged" in error and "Run the same command again" in error and error.count("\n") == 1
    toy.files["/fire.zip"].data = good
    assert main(["download", "toy", "fire", "--dataset_dir", str(tmp_path)]) == 0
    assert (tmp_path / "toy" / "fire" / "a.txt").read_text() == "fire"


def test_interrupted_unpacking_leaves_no_scene_and_is_done_again(toy, tmp_path, monkeypatch):
    """Killed while unpacking: the scene is not there, and the next run makes it from the archive that is."""
    calls = []

    def killed(folder):
        calls.append(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(download_archive, "_extract_nested", killed)
        assert main(["download", "toy", "chess", "--dataset_dir", str(tmp_path)]) == 130
    assert calls and not (tmp_path / "toy" / "chess").exists()
    count = len(toy.requests)
    assert main(["download", "toy", "chess", "--dataset_dir", str(tmp_path)]) == 0
    assert contents(tmp_path / "toy" / "chess") == {**CHESS, **POSES}
    assert "/chess.zip" not in [request.get("path") for request in toy.requests[count:]]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Name one of: 7scenes, 12scenes, Cambridge"),
        (["9scenes"], "Unknown data set '9scenes'"),
        (["7scenes", "chess", "cheese"], "Unknown scene of 7scenes 'cheese'"),
        (["indoor6"], "indoor6 has no link that a program may follow"),
        (["BKC"], "Download by hand"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, capsys, arguments, expected):
    assert main(["download", *arguments, "--dataset_dir", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_list_downloads_nothing(capsys, tmp_path):
    assert main(["download", "--list", "--dataset_dir", str(tmp_path / "data")]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("7scenes:", "redkitchen", "GreatCourt", "office2_5b", "licence:", "by hand:"))
    assert not (tmp_path / "data").exists()


def test_script_and_sources():
    result = subprocess.run(
        [sys.executable, "download.py", "--list", "Cambridge"], cwd=ROOT / "processing", capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and "KingsCollege" in result.stdout and "7scenes" not in result.stdout
    items = [item for source in SOURCES.values() for scene in source.scenes.values() for item in scene]
    assert len({item.target for item in items}) == len(set(items)), "no two things go to the same place"
    assert all(url.startswith("http") and ".." not in item.target for item in items for url in item.urls)
    assert issubclass(DownloadError, D2SError) and DownloadError.exit_code == 1
