"""`d2s d2net extract-kapture` as a user starts it, killed and damaged in all the ways that leave a tree half done."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2s.cli import run_module
from d2s.d2net.kapture_tree import KaptureTree

from .conftest import texture

ROOT = Path(__file__).resolve().parents[3]


def arguments(tree: Path, model_file: Path, *more: str) -> list[str]:
    return ["extract-kapture", "--kapture-root", str(tree), "--model_file", str(model_file), "--cudaid", "-1", *more]


def extract(tree: Path, model_file: Path, *more: str) -> int:
    return run_module("d2net", arguments(tree, model_file, *more))


def with_archives(root: Path) -> Path:
    for kind in ("keypoints", "descriptors"):
        folder = root / "reconstruction" / kind / "d2_random"
        folder.mkdir(parents=True)
        tarfile.open(folder / f"{kind}.tar", "w").close()
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model_file: Path, request: pytest.FixtureRequest) -> dict[str, Path]:
    """Trees extracted in one go: with files, and with archives."""
    made = {}
    for style in ("files", "archives"):
        root = request.getfixturevalue("tree_maker")(tmp_path_factory.mktemp(style) / "tree")
        made[style] = with_archives(root) if style == "archives" else root
        assert extract(root, model_file, "--max-keypoints", "20") == 0
    return made


def test_keypoints_and_descriptors_belong_together(finished: dict[str, Path]) -> None:
    for root in finished.values():
        tree = KaptureTree(root)
        with tree.features("keypoints", "d2_random") as keypoints, tree.features("descriptors", "d2_random") as descriptors:
            assert (keypoints.config.name, keypoints.config.dsize, descriptors.config.dsize) == ("d2net", 3, 512)
            assert (descriptors.config.keypoints_type, descriptors.config.metric_type) == ("d2_random", "L2")
            for name in tree.images():
                points, rows = keypoints.read(name), descriptors.read(name)
                assert 0 < len(points) == len(rows) <= 20
                np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-4)
                # The top-left corner is the origin
                assert (points[:, :2] >= 0.5).all() and (points[:, :2] <= [63.5, 47.5]).all() and (points[:, 2] == 1).all()


def test_archives_hold_what_files_do(finished: dict[str, Path]) -> None:
    trees = {style: KaptureTree(root) for style, root in finished.items()}
    for kind in ("keypoints", "descriptors"):
        with trees["files"].features(kind, "d2_random") as a, trees["archives"].features(kind, "d2_random") as b:
            assert a.names() == b.names() == set(trees["files"].images())
            assert all(np.array_equal(a.read(name), b.read(name)) for name in a.names())


def test_again_there_is_nothing_to_do(finished: dict[str, Path], model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root in finished.values():
        before = files(root)
        assert extract(root, model_file, "--max-keypoints", "20") == 0
        assert "5 of 5 images have their features" in capsys.readouterr().out
        assert files(root) == before


def test_other_settings_and_types_are_refused(finished: dict[str, Path], model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = finished["files"]
    before = files(root)
    assert extract(root, model_file, "--max-keypoints", "10") == 2
    assert "were made with other settings: num_keypoints 20 (now 10)" in capsys.readouterr().err
    assert extract(root, model_file, "--max-keypoints", "20", "--keypoints-type", "other") == 2
    assert "Choose another type" in capsys.readouterr().err
    shutil.rmtree(root / "reconstruction" / "keypoints" / "other")
    assert files(root) == before


def half_done(root: Path, style: str) -> None:
    """The last image's descriptors lost, the one before it cut short, a temporary file left behind."""
    if style == "archives":
        for kind, cut in (("keypoints", 0), ("descriptors", 1000)):
            path = root / "reconstruction" / kind / "d2_random" / f"{kind}.tar"
            with tarfile.open(path) as archive:
                last = archive.getmembers()[-1]
            os.truncate(path, last.offset + cut if cut else last.offset_data + 1024)
        return
    folder = root / "reconstruction" / "descriptors" / "d2_random"
    (folder / "z.jpg.desc").unlink()
    os.truncate(folder / "mapping" / "cam1" / "000.jpg.desc", 2048 + 3)
    (folder / ".z.jpg.desc.0123abcd.tmp").write_bytes(b"half")
    (folder / ".mine.tmp").write_bytes(b"not ours")


@pytest.mark.parametrize("style", ["files", "archives"])
def test_half_done_trees_are_finished(finished: dict[str, Path], model_file: Path, tmp_path: Path, style: str) -> None:
    root = tmp_path / "tree"
    shutil.copytree(finished[style], root)
    half_done(root, style)
    assert files(root) != files(finished[style])
    assert extract(root, model_file, "--max-keypoints", "20") == 0
    again = files(root)
    again.pop("reconstruction/descriptors/d2_random/.mine.tmp", None)
    assert again == files(finished[style])


KILLED = """
import os, signal, sys
from d2s.cli import main
from d2s.d2net.kapture_features import FeatureFolder

write, written = FeatureFolder.write, []

def write_and_die(self, name, array):
    write(self, name, array)
    written.append(name)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

FeatureFolder.write = write_and_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("style", ["files", "archives"])
def test_killed_extraction_ends_as_an_undisturbed_one(finished: dict[str, Path], model_file: Path, kapture_root: Path, style: str) -> None:
    root = with_archives(kapture_root) if style == "archives" else kapture_root
    command = [sys.executable, "-c", KILLED, "d2net", *arguments(root, model_file, "--max-keypoints", "20")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
    assert files(root) != files(finished[style])
    assert extract(root, model_file, "--max-keypoints", "20") == 0
    assert files(root) == files(finished[style])


def test_legacy_keypoints_are_centred_as_published(kapture_root: Path, model_file: Path) -> None:
    assert extract(kapture_root, model_file, "--coordinates", "legacy", "--keypoints-type", "k", "--descriptors-type", "d") == 0
    tree = KaptureTree(kapture_root)
    with tree.features("keypoints", "k") as keypoints, tree.features("descriptors", "d") as descriptors:
        assert descriptors.config.keypoints_type == "k"
        points = np.concatenate([keypoints.read(name) for name in tree.images()])
    # Cells are at 4 k + 1.5 and a border cell cannot have its maximum outside the map
    assert points[:, :2].min() >= 1.5 and (points[:, :2].max(axis=0) <= [14 * 4 + 1.5, 10 * 4 + 1.5]).all()


def test_bad_images_are_named_and_the_others_done(kapture_root: Path, model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kapture_root / "sensors/records_data/query.jpg").write_bytes(b"")
    (kapture_root / "sensors/records_data/z.jpg").unlink()
    assert extract(kapture_root, model_file) == 2
    output = capsys.readouterr()
    assert "query.jpg is empty" in output.out and "z.jpg does not exist" in output.out
    assert output.err.strip() == "d2s d2net: 2 of 5 images could not be read. Replace them, or take them off the list."
    with KaptureTree(kapture_root).features("descriptors", "d2_random") as store:
        assert len(store.names()) == 3


def test_strange_images_have_features_too(kapture_root: Path, model_file: Path) -> None:
    image = texture(64, 48, 9)
    strange = {
        "mapping/cam 0/000.jpg": image[:, :, 0],
        "mapping/cam 0/001.png": image.astype(np.uint16) * 257,
        "query.jpg": image[:5, :7],
        "mapping/cam1/000.jpg": cv2.resize(image, (4000, 3000), interpolation=cv2.INTER_NEAREST),
        "z.jpg": np.zeros_like(image),
    }
    for name, pixels in strange.items():
        assert cv2.imwrite(str(kapture_root / "sensors/records_data" / name), pixels)
    assert extract(kapture_root, model_file, "--max_edge", "96") == 0
    tree = KaptureTree(kapture_root)
    with tree.features("keypoints", "d2_random") as keypoints, tree.features("descriptors", "d2_random") as descriptors:
        counts = {name: keypoints.rows(name) for name in strange}
        assert counts == {name: descriptors.rows(name) for name in strange}
        assert counts["query.jpg"] == 0 and min(counts[name] or 0 for name in list(strange)[:2]) > 5
        assert keypoints.read("mapping/cam1/000.jpg")[:, 0].max() > 2000  # in pixels of the image as stored


def test_types_of_other_programs_are_gone_on_with(
    finished: dict[str, Path], model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "tree"
    shutil.copytree(finished["files"], root)
    for kind in ("keypoints", "descriptors"):
        noted = root / "reconstruction" / kind / "d2_random" / "d2s_settings.json"
        assert json.loads(noted.read_text())["num_keypoints"] == 20
        noted.unlink()
    (root / "reconstruction/keypoints/d2_random/z.jpg.kpt").unlink()
    assert extract(root, model_file, "--max-keypoints", "20") == 0
    assert "made by another program" in capsys.readouterr().out
    assert (root / "reconstruction/keypoints/d2_random/z.jpg.kpt").is_file()
