from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from d2s.d2net.kapture_tar import AppendableTar
from d2s.errors import FormatError

LONG = "a/" * 70 + "name.kpt"


def archive(path: Path, members: dict[str, bytes], style: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=style) as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def contents(path: Path) -> list[tuple[str, bytes]]:
    """What Python's own reader finds, repeated names included."""
    with tarfile.open(path) as file:
        return [(info.name, file.extractfile(info).read()) for info in file.getmembers()]  # type: ignore[union-attr]


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_append_to_what_others_made(tmp_path: Path, style: int) -> None:
    path = archive(tmp_path / "a.tar", {"./x/1.kpt": b"one", "2.kpt": b""}, style)
    with AppendableTar(path) as tar:
        assert tar.names() == {"x/1.kpt", "2.kpt"} and tar.read("x/1.kpt") == b"one" and tar.size("2.kpt") == 0
        tar.append(LONG, b"x" * 700)
        tar.append("3.kpt", b"y" * 512)
        assert tar.read(LONG) == b"x" * 700 and tar.size("nothing") is None
    assert contents(path) == [
        ("x/1.kpt", b"one") if style < 0 else ("./x/1.kpt", b"one"),
        ("2.kpt", b""),
        (LONG, b"x" * 700),
        ("3.kpt", b"y" * 512),
    ]
    assert path.stat().st_size % tarfile.RECORDSIZE == 0


def test_the_last_member_of_a_name_counts(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"1.kpt": b"old"})
    with AppendableTar(path) as tar:
        tar.append("1.kpt", b"newer")
        assert tar.read("1.kpt") == b"newer"
    assert AppendableTar(path).read("1.kpt") == b"newer" and len(contents(path)) == 2


def test_looking_changes_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"1.kpt": b"one"})
    before = path.read_bytes()
    with AppendableTar(path) as tar:
        tar.read("1.kpt")
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", bytes(10240), bytes(1024)])
def test_empty_archives(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(content)
    with AppendableTar(path) as tar:
        assert tar.names() == set()
        tar.append("1.kpt", b"one")
    assert contents(path) == [("1.kpt", b"one")]


def test_an_append_cut_at_any_byte_is_repeated(tmp_path: Path) -> None:
    """Whatever part of a member reached the disk, the archive ends as if nothing had happened."""
    whole = archive(tmp_path / "whole.tar", {"1.kpt": b"one"})
    with AppendableTar(whole) as tar:
        start = tar._end
        tar.append("2.kpt", b"z" * 1300)
        end = tar._end
    expected = whole.read_bytes()
    for cut in (start, start + 1, start + 300, start + 511, start + 512, start + 513, start + 1500, end - 1):
        path = tmp_path / f"cut{cut}.tar"
        path.write_bytes(expected[:cut])
        with AppendableTar(path) as tar:
            assert tar.names() == {"1.kpt"}, cut
            tar.append("2.kpt", b"z" * 1300)
        assert path.read_bytes() == expected, cut
    without_end = tmp_path / "without_end.tar"
    without_end.write_bytes(expected[:end])
    assert AppendableTar(without_end).names() == {"1.kpt", "2.kpt"}
    with AppendableTar(without_end) as tar:
        tar.repair()
    assert without_end.read_bytes() == expected
    with AppendableTar(without_end) as tar:
        tar.repair()
    assert without_end.read_bytes() == expected


def test_damage_is_an_error_and_not_cut_off(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"1.kpt": b"one" * 300, "2.kpt": b"two" * 300})
    data = bytearray(path.read_bytes())
    second = data.index(b"2.kpt")
    data[second + 150] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(FormatError, match=r"a\.tar is damaged after 1536 of"):
        AppendableTar(path)
    path.write_bytes(b"no archive at all " * 100)
    with pytest.raises(FormatError, match="is damaged after 0 of"):
        AppendableTar(path)
    assert path.read_bytes().startswith(b"no archive")
