"""`d2s d2net extract` as a user starts it, on good, strange and broken images."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io

from d2s.cli import run_module
from d2s.errors import InputError
from d2s.features.d2net.extractor import D2NetExtractor, ScaledFeatures
from d2s.features.table import FEATURES


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (max(1, height // 6), max(1, width // 6), 3), dtype=np.uint8), (width, height))
    return cv2.addWeighted(image, 0.7, rng.integers(0, 256, image.shape, dtype=np.uint8), 0.3, 0)


def run(folder: Path, names: list[str], model_file: Path, *more: str) -> int:
    (folder / "list.txt").write_text("".join(f"{folder / name}\n\n" for name in names))
    where = ["--image_list_file", str(folder / "list.txt"), "--model_file", str(model_file), "--cudaid", "-1"]
    return run_module("d2net", ["extract", *where, *more])


def load(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


def extractor(model_file: Path, count: int | None = None, **options: Any) -> D2NetExtractor:
    return D2NetExtractor("d2net", count, "cpu", model_file, **{**FEATURES["d2net"].options, **options})


def check(found: dict[str, Any], width: int, height: int) -> None:
    count = len(found["keypoints"])
    assert found["keypoints"].shape == (count, 3) and found["descriptors"].shape == (count, 512) and found["scores"].shape == (count,)
    assert all(array.dtype == np.float32 for array in found.values())
    assert (found["keypoints"][:, :2] >= 0).all() and (found["keypoints"][:, :2] <= [width - 1, height - 1]).all()
    np.testing.assert_allclose(np.linalg.norm(found["descriptors"], axis=1), 1, atol=1e-4)


def test_npz_and_mat_beside_the_image(tmp_path: Path, model_file: Path) -> None:
    cv2.imwrite(str(tmp_path / "a b.png"), texture(72, 56))
    assert run(tmp_path, ["a b.png"], model_file) == 0
    found = load(tmp_path / "a b.png.d2-net")
    check(found, 72, 56)
    assert len(found["keypoints"]) > 5 and (np.diff(found["scores"]) <= 0).all()
    assert run(tmp_path, ["a b.png"], model_file, "--output_type", "mat", "--output_extension", ".mat") == 0
    again = scipy.io.loadmat(tmp_path / "a b.png.mat")
    np.testing.assert_array_equal(again["keypoints"], found["keypoints"])
    assert again["scores"].shape == (1, len(found["scores"]))
    assert run(tmp_path, ["a b.png"], model_file, "--max_keypoints", "3", "--output_extension", ".few") == 0
    np.testing.assert_array_equal(load(tmp_path / "a b.png.few")["keypoints"], found["keypoints"][:3])


def test_options_reach_the_extractor(tmp_path: Path, model_file: Path) -> None:
    image = texture(72, 56)
    cv2.imwrite(str(tmp_path / "a.png"), image[:, :, ::-1])
    options = {
        "--multiscale": {"scales": (0.5, 1.0, 2.0)},
        "--scales 0.7 1": {"scales": (0.7, 1.0)},
        "--no-relu": {"use_relu": False},
        "--max_edge 60 --max_sum_edges 90": {"max_side": 60, "max_sum_edges": 90},
        "--preprocessing torch": {"preprocessing": "torch"},
        "--coordinates legacy": {"coordinates": "legacy"},
        "--half": {"half": True},
    }
    plain = extractor(model_file).extract([image])[0]
    for text, values in options.items():
        assert run(tmp_path, ["a.png"], model_file, *text.split()) == 0
        (expected,) = extractor(model_file, **values).extract([image])
        assert isinstance(expected, ScaledFeatures)
        found = load(tmp_path / "a.png.d2-net")
        np.testing.assert_array_equal(found["keypoints"], expected.with_scales())
        np.testing.assert_array_equal(found["descriptors"], expected.descriptors)
        assert not np.array_equal(expected.descriptors, plain.descriptors) or not np.array_equal(expected.keypoints, plain.keypoints), text


def test_existing_files_are_skipped_only_when_asked(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), texture(40, 40))
    (tmp_path / "a.png.d2-net").write_bytes(b"mine")
    (tmp_path / ".b.png.d2-net.0123abcd.tmp").write_bytes(b"left by a killed run")
    assert run(tmp_path, ["a.png", "b.png"], model_file, "--skip_existing") == 0
    assert "1 of 2 images have their features" in capsys.readouterr().out
    assert (tmp_path / "a.png.d2-net").read_bytes() == b"mine"
    assert run(tmp_path, ["a.png", "b.png"], model_file) == 0
    assert len(load(tmp_path / "a.png.d2-net")) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.png.d2-net", "b.png", "b.png.d2-net", "list.txt"]


def test_killed_and_gone_on_with_leaves_the_files_of_an_undisturbed_run(tmp_path: Path, model_file: Path) -> None:
    names = [f"{k}.png" for k in range(5)]
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
        for k, name in enumerate(names):
            cv2.imwrite(str(tmp_path / folder / name), texture(64, 48, k))
    assert run(tmp_path / "whole", names, model_file) == 0
    (tmp_path / "killed" / "list.txt").write_text("".join(f"{tmp_path / 'killed' / name}\n" for name in names))
    arguments = ["extract", "--image_list_file", tmp_path / "killed" / "list.txt", "--model_file", model_file, "--cudaid", "-1"]
    process = subprocess.run([sys.executable, "-c", KILL, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(list((tmp_path / "killed").glob("*.d2-net"))) == 2 and list((tmp_path / "killed").glob(".*.tmp"))
    assert run(tmp_path / "killed", names, model_file, "--skip_existing") == 0
    whole, killed = (
        {path.name: path.read_bytes() for path in (tmp_path / f).iterdir() if path.name != "list.txt"} for f in ("whole", "killed")
    )
    assert killed == whole


# Dies while it writes the third file
KILL = """
import os, signal, sys
import numpy as np
from d2s.cli import run_module
save, written = np.savez, []
def save_or_die(file, **arrays):
    written.append(file)
    if len(written) == 3:
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, **arrays)
np.savez = save_or_die
run_module("d2net", sys.argv[1:])
"""


STRANGE = {
    "gray.png": lambda image: image[:, :, 0],
    "rgba.png": lambda image: np.dstack([image, np.full(image.shape[:2], 7, np.uint8)]),
    "deep.png": lambda image: image.astype(np.uint16) * 257,
    "tiny.png": lambda image: image[:9, :13],
    "line.png": lambda image: image[:1],
    "pixel.png": lambda image: image[:1, :1],
    "blank.png": np.zeros_like,
}


@pytest.mark.parametrize("more", [(), ("--multiscale",), ("--coordinates", "legacy")])
def test_strange_images_have_valid_features(tmp_path: Path, model_file: Path, more: tuple[str, ...]) -> None:
    image = texture(64, 48)
    for name, change in STRANGE.items():
        cv2.imwrite(str(tmp_path / name), change(image))
    cv2.imwrite(str(tmp_path / "plain.png"), image)
    assert run(tmp_path, [*STRANGE, "plain.png"], model_file, *more) == 0
    for name in STRANGE:
        height, width = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED).shape[:2]
        check(load(tmp_path / f"{name}.d2-net"), width, height)
    plain = load(tmp_path / "plain.png.d2-net")
    for name in ("rgba.png", "deep.png"):
        np.testing.assert_array_equal(load(tmp_path / f"{name}.d2-net")["keypoints"], plain["keypoints"])


def test_an_image_without_keypoints_is_named(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "line.png"), texture(64, 48)[:1])
    cv2.imwrite(str(tmp_path / "plain.png"), texture(64, 48))
    assert run(tmp_path, ["line.png", "plain.png"], model_file) == 0
    output = capsys.readouterr().out
    assert "No keypoints in" in output and "line.png, 64 x 1 pixels" in output and "plain.png, 64" not in output
    assert "Wrote the features of 2 of 2 images" in output
    assert load(tmp_path / "line.png.d2-net")["keypoints"].shape == (0, 3)


def test_a_list_that_is_a_folder_is_one_line(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_module("d2net", ["extract", "--image_list_file", str(tmp_path), "--model_file", str(model_file), "--cudaid", "-1"]) == 2
    error = capsys.readouterr().err
    assert f"Image list {tmp_path} cannot be read: Is a directory." in error and len(error.splitlines()) == 1


def test_a_huge_image_is_made_smaller(tmp_path: Path, model_file: Path) -> None:
    cv2.imwrite(str(tmp_path / "huge.jpg"), cv2.resize(texture(60, 40), (6000, 4000), interpolation=cv2.INTER_NEAREST))
    assert run(tmp_path, ["huge.jpg"], model_file, "--max_edge", "96") == 0
    found = load(tmp_path / "huge.jpg.d2-net")
    check(found, 6000, 4000)
    assert found["keypoints"][:, 0].max() > 4000


def test_images_that_cannot_be_read_are_one_line_each(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite(str(tmp_path / "good.jpg"), texture(64, 48))
    data = (tmp_path / "good.jpg").read_bytes()
    for name, content in {
        "empty.jpg": b"",
        "cut.jpg": data[: len(data) // 2],
        "text.jpg": b"no image",
        "bad.png": b"\x89PNG\r\n\x1a\nIEND",
    }.items():
        (tmp_path / name).write_bytes(content)
    assert run(tmp_path, ["absent.jpg", "empty.jpg", "cut.jpg", "text.jpg", "bad.png", "good.jpg"], model_file) == 2
    output = capsys.readouterr()
    lines = [line for line in output.out.splitlines() if line.startswith("Left out")]
    for line, reason in zip(lines, ("does not exist", "is empty", "is truncated", "cannot be decoded", "cannot be decoded"), strict=True):
        assert reason in line
    assert "5 of 6 images could not be read" in output.err and "Traceback" not in output.err
    assert [path.name for path in tmp_path.glob("*.d2-net")] == ["good.jpg.d2-net"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--max_edge", "3"), "max_edge|max_side"),
        (("--max-keypoints", "0"), "--max_keypoints must be at least 1"),
        (("--batch", "0"), "--batch must be at least 1"),
        (("--scales", "0"), "scales of D2-Net must be numbers"),
        (("--model_file", "absent.pth"), r"absent\.pth does not exist"),
        (("--output_extension", "/x"), "output extension"),
    ],
)
def test_wrong_options_are_one_clear_line(
    tmp_path: Path, model_file: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), texture(40, 40))
    assert run(tmp_path, ["a.png"], model_file, *more) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line), line


def test_lists_without_images(tmp_path: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, [], model_file) == 2
    assert "names no image" in capsys.readouterr().err
    assert run_module("d2net", ["extract", "--image_list_file", str(tmp_path / "absent.txt")]) == 2
    assert "absent.txt does not exist" in capsys.readouterr().err


def test_limits_and_padding_keep_coordinates(model_file: Path) -> None:
    """A picture of which every pixel is tripled, shrunk again by the limit: keypoints lie where they were, in the larger pixels."""
    small = texture(64, 48)
    large = np.repeat(np.repeat(small, 3, axis=0), 3, axis=1)
    direct = extractor(model_file).extract([small])[0]
    shrunk = extractor(model_file, max_side=64).extract([large])[0]
    np.testing.assert_allclose(shrunk.keypoints, (direct.keypoints + 0.5) * 3 - 0.5, atol=0.02)
    legacy = extractor(model_file, coordinates="legacy").extract([small])[0]
    assert not (np.diff(legacy.scores) <= 0).all(), "without a limit legacy features keep the published order"


def test_half_precision_finds_nearly_the_same(model_file: Path) -> None:
    image = texture(160, 120)
    full, half = (extractor(model_file, half=value).extract([image])[0] for value in (False, True))
    distance = np.linalg.norm(full.keypoints[:, None] - half.keypoints, axis=2).min(axis=1)
    assert (distance < 0.5).mean() > 0.6 and not np.array_equal(full.scores, half.scores)


def test_wrong_options_of_the_extractor(model_file: Path) -> None:
    for options, message in (
        ({"coordinates": "colmap"}, "corrected, legacy"),
        ({"preprocessing": "keras"}, "caffe, torch"),
        ({"scales": ()}, "scales"),
    ):
        with pytest.raises(InputError, match=message):
            extractor(model_file, **options)
