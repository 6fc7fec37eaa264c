"""MegaDepth in miniature through `d2s d2net undistort` and `prepare`, against what is known of it and against loops over sets."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pycolmap
import pytest

from d2s.cli import run_module
from d2s.d2net.megadepth import TRAIN_SCENES, VALID_SCENES, MegaDepthScene, read_scene_list
from d2s.d2net.megadepth_prepare import pair_matrices
from d2s.d2net.scene_info import SceneInfo
from d2s.errors import FormatError, InputError, MissingFileError

from . import miniature_megadepth as mini

KEYS = ("image_paths", "depth_paths", "intrinsics", "poses", "overlap_matrix", "scale_ratio_matrix", "angles", "n_points3D")


@pytest.fixture(scope="module")
def info(megadepth: Path) -> SceneInfo:
    return SceneInfo.load(megadepth / "info" / "0000.npz")


@pytest.fixture
def copy(megadepth: Path, tmp_path: Path) -> MegaDepthScene:
    """A data set to change."""
    shutil.copytree(megadepth, tmp_path / "copy")
    return MegaDepthScene(tmp_path / "copy", "0000")


def prepare(root: Path, *more: str) -> int:
    return run_module("d2net", ["prepare", "--base_path", str(root), "--output_path", str(root / "info"), "--min_depth_kb", "10", *more])


def undistort(root: Path, *more: str) -> int:
    return run_module("d2net", ["undistort", "--base_path", str(root), *more])


def test_undistorted_photos_are_those_of_their_cameras(megadepth: Path) -> None:
    scene = MegaDepthScene(megadepth, "0000")
    model = pycolmap.Reconstruction(scene.undistorted / "sparse")
    assert {image.name for image in model.images.values()} == set(mini.NAMES)
    for number, name in enumerate(mini.NAMES[: mini.WITH_DEPTH]):
        image = next(image for image in model.images.values() if image.name == name)
        camera, pinhole = model.cameras[image.camera_id], mini.undistorted_camera(number)
        assert camera.model.name == "PINHOLE" and (camera.width, camera.height) == (pinhole.width, pinhole.height)
        np.testing.assert_allclose(camera.calibration_matrix(), pinhole.calibration_matrix())
        found, expected = (
            cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY).astype(float)  # JPEG blurs colours
            for photo in (cv2.imread(str(scene.undistorted / "images" / name)), mini.photo(camera, number))
        )
        shifts = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
        apart = [np.abs(found - np.roll(expected, shift, axis=(0, 1)))[4:-4, 4:-4].mean() for shift in shifts]
        assert apart[0] < 2 and apart[0] < 0.3 * min(apart[1:])


def test_text_model_is_written_too(megadepth: Path) -> None:
    lines = (megadepth / "Undistorted_SfM" / "0000" / "sparse-txt" / "cameras.txt").read_text().splitlines()
    assert {line.split()[1] for line in lines if not line.startswith("#")} == {"PINHOLE"}


def test_files_are_plain_arrays_under_the_published_keys(megadepth: Path) -> None:
    with np.load(megadepth / "info" / "0000.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert {*KEYS, "points3D_id_to_2D", "points3D_id_to_ndepth"} < set(arrays)
    assert not [key for key, array in arrays.items() if array.dtype.hasobject]


def test_photos_without_depth_are_empty(info: SceneInfo) -> None:
    known = [Path(path).name for path in info.image_paths.tolist() if path]
    assert known == list(mini.NAMES[: mini.WITH_DEPTH])
    assert ((info.image_paths == "") == (info.depth_paths == "")).all()
    missing = np.flatnonzero(info.depth_paths == "")
    assert np.isnan(info.poses[missing]).all() and np.isnan(info.intrinsics[missing]).all() and (info.n_points3D[missing] == 0).all()
    for matrix in (info.overlap_matrix, info.scale_ratio_matrix):
        assert (matrix[missing] == -1).all() and (matrix[:, missing] == -1).all() and (np.diag(matrix) == -1).all()


def test_cameras_and_depths_are_those_of_the_scene(info: SceneInfo, megadepth: Path) -> None:
    for number in range(mini.WITH_DEPTH):
        rotation, translation = mini.pose(number)
        np.testing.assert_allclose(info.poses[number][:3], np.column_stack([rotation, translation]), atol=1e-9)
        np.testing.assert_allclose(info.intrinsics[number], mini.undistorted_camera(number).calibration_matrix())
        rows = info.points_of(number)
        focal = info.intrinsics[number][[0, 1], [0, 1]].mean()
        with h5py.File(megadepth / info.depth_paths[number]) as file:
            depth = file["depth"][()]
        x, y = np.round(info.points3D_id_to_2D[rows] - 0.5).astype(int).T
        inside = (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0])
        np.testing.assert_allclose(info.points3D_id_to_ndepth[rows][inside] * focal, depth[y[inside], x[inside]], rtol=3e-3)
        assert inside.sum() > 100


def test_pairs_are_those_of_loops_over_sets(info: SceneInfo, megadepth: Path) -> None:
    model = pycolmap.Reconstruction(MegaDepthScene(megadepth, "0000").source_model)
    images = [next(image for image in model.images.values() if image.name == name) for name in mini.NAMES[: mini.WITH_DEPTH]]
    points = [{p.point3D_id for p in image.points2D if p.has_point3D()} for image in images]
    for a in range(len(images)):
        assert info.n_points3D[a] == len(points[a])
        for b in range(len(images)):
            if a == b:
                continue
            common = points[a] & points[b]
            assert info.overlap_matrix[a, b] == pytest.approx(len(common) / len(points[a]))
            ratios = []
            for key in common:
                nd = [
                    (images[k].cam_from_world() * model.points3D[key].xyz)[2] / np.mean(mini.undistorted_camera(k).params[:2])
                    for k in (a, b)
                ]
                ratios.append(max(nd[0] / nd[1], nd[1] / nd[0]))
            assert info.scale_ratio_matrix[a, b] == pytest.approx(min(ratios), rel=1e-5)
            axes = [images[k].cam_from_world().rotation.matrix()[2] for k in (a, b)]
            assert info.angles[a, b] == pytest.approx(np.degrees(np.arccos(axes[0] @ axes[1])), abs=0.05)
            one, two = info.common_points(a, b)
            assert set(info.points3D_ids[one].tolist()) == common and (info.points3D_ids[one] == info.points3D_ids[two]).all()


def test_pair_matrices_of_random_tables() -> None:
    rng = np.random.default_rng(4)
    tables = [
        dict(zip(rng.choice(40, size, replace=False).tolist(), rng.uniform(-0.2, 2, size), strict=True)) for size in (25, 0, 12, 30, 1)
    ]
    ids = np.array([key for table in tables for key in sorted(table)], np.int64) * 10**12
    depths = np.array([table[key] for table in tables for key in sorted(table)])
    overlap, ratio = pair_matrices(ids, depths, np.cumsum([0, *map(len, tables)]))
    for a, first in enumerate(tables):
        for b, second in enumerate(tables):
            common = first.keys() & second.keys()
            front = [max(first[k] / second[k], second[k] / first[k]) for k in common if first[k] > 0 and second[k] > 0]
            assert overlap[a, b] == pytest.approx(-1 if a == b or not first or not second else len(common) / len(first))
            assert ratio[a, b] == pytest.approx(-1 if a == b or not front else min(front), rel=1e-5)


def published(info: SceneInfo) -> dict[str, Any]:
    """The arrays as the published preparation stores them: with None and dictionaries."""

    def objects(values: list[Any]) -> np.ndarray:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array

    known = (info.depth_paths != "").tolist()
    rows = [info.points_of(k) for k in range(len(known))]
    arrays = {key: getattr(info, key) for key in ("overlap_matrix", "scale_ratio_matrix", "angles", "n_points3D")}
    for key in ("image_paths", "depth_paths", "intrinsics", "poses"):
        values = getattr(info, key)
        arrays[key] = objects([value if there else None for value, there in zip(list(values), known, strict=True)])
    for key, convert in (("points3D_id_to_2D", list), ("points3D_id_to_ndepth", float)):
        values = getattr(info, key)
        tables = [{int(i): convert(v) for i, v in zip(info.points3D_ids[r], values[r], strict=True)} for r in rows]
        arrays[key] = objects([table if there else None for table, there in zip(tables, known, strict=True)])
    return arrays


def test_published_files_are_read(info: SceneInfo, tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", **published(info))
    old = SceneInfo.load(tmp_path / "old.npz")
    for name in SceneInfo.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(old, name), getattr(info, name), err_msg=name)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("kind", ["code", "text", "no npz", "half"])
def test_files_that_cannot_be_read_are_named(kind: str, info: SceneInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.npz"
    if kind == "code":
        np.savez(path, **{**published(info), "poses": np.array([Bomb()], dtype=object)})
    elif kind == "text":
        np.savez(path, **{**published(info), "points3D_id_to_2D": np.array(["x"])})
    elif kind == "half":
        info.save(path)
        path.write_bytes(path.read_bytes()[:5000])
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FormatError, match=r"bad\.npz"):
        SceneInfo.load(path)
    assert not (tmp_path / "exploded").exists()


def test_what_is_there_is_left_alone(copy: MegaDepthScene, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.stat().st_mtime_ns for path in copy.root.rglob("*") if path.is_file()}
    assert undistort(copy.root) == prepare(copy.root) == 0
    assert capsys.readouterr().out.count("0000: present") == 2
    assert {path: path.stat().st_mtime_ns for path in copy.root.rglob("*") if path.is_file()} == files


def test_what_a_killed_run_left_is_done_again(copy: MegaDepthScene) -> None:
    before = (copy.root / "info" / "0000.npz").read_bytes()
    shutil.move(copy.undistorted, copy.undistorted.with_name(".0000.0123abcd.tmp"))
    (copy.root / "info" / "0000.npz").rename(copy.root / "info" / ".0000.npz.0123abcd.tmp")
    assert undistort(copy.root) == prepare(copy.root) == 0
    assert [path.name for path in copy.undistorted.parent.iterdir()] == ["0000"]
    assert [path.name for path in (copy.root / "info").iterdir()] == ["0000.npz"]
    assert (copy.root / "info" / "0000.npz").read_bytes() == before


def test_text_alone_serves_too(copy: MegaDepthScene, info: SceneInfo) -> None:
    """As the published preparation leaves it; COLMAP cuts names at their first space there."""
    shutil.rmtree(copy.undistorted / "sparse")
    (copy.root / "info" / "0000.npz").unlink()
    assert prepare(copy.root) == 0
    again = SceneInfo.load(copy.root / "info" / "0000.npz")
    np.testing.assert_allclose(again.overlap_matrix[1:4, 1:4], info.overlap_matrix[1:4, 1:4])


def test_colmaps_program_is_an_alternative(copy: MegaDepthScene) -> None:
    before = (copy.undistorted / "images" / "b1.jpg").read_bytes()
    shutil.rmtree(copy.undistorted)
    program = copy.root / "bin" / "colmap"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n{PROGRAM}")
    program.chmod(0o755)
    assert undistort(copy.root, "--colmap_path", str(program.parent)) == 0
    assert (copy.undistorted / "images" / "b1.jpg").read_bytes() == before
    assert (copy.undistorted / "sparse-txt" / "images.txt").is_file()


# What COLMAP's two commands do, with the options that they take
PROGRAM = """
import sys, pycolmap
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
paths = options["--output_path"], options["--input_path"]
if sys.argv[1] == "image_undistorter":
    limit = pycolmap.UndistortCameraOptions()
    limit.max_image_size = int(options["--max_image_size"])
    pycolmap.undistort_images(*paths, options["--image_path"], undistort_options=limit)
else:
    assert sys.argv[1] == "model_converter" and options["--output_type"] == "TXT"
    pycolmap.Reconstruction(paths[1]).write_text(paths[0])
"""


@pytest.mark.parametrize("text", ["#!/bin/sh\necho no memory >&2\nexit 3\n", "nothing"])
def test_a_program_that_fails_is_named(copy: MegaDepthScene, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy.undistorted)
    program = copy.root / "colmap"
    program.write_text(text)
    program.chmod(0o755)
    assert undistort(copy.root, "--colmap_path", str(program)) in (1, 2)
    assert "colmap" in capsys.readouterr().err and not list(copy.undistorted.parent.iterdir())
    assert undistort(copy.root, "--colmap_path", str(copy.root / "none")) == 2


def test_scenes_that_lack_files_are_named(copy: MegaDepthScene, capsys: pytest.CaptureFixture[str]) -> None:
    (copy.root / "MegaDepth_v1_SfM" / "0001").mkdir()
    (copy.root / "Undistorted_SfM" / "0001").mkdir()
    assert undistort(copy.root) == prepare(copy.root) == 0
    told = capsys.readouterr().out
    assert "0001: no " in told and "0001/sparse/manhattan/0" in told and "0001/sparse-txt" in told
    assert not (copy.root / "info" / "0001.npz").exists()
    assert undistort(copy.root, "--scene_id", "0001") == prepare(copy.root, "--scene_id", "0001") == 2
    assert prepare(copy.root, "--scene_id", "0009") == prepare(copy.root, "--workers", "0") == 2


def test_damaged_scenes_do_not_stop_the_others(copy: MegaDepthScene, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = MegaDepthScene(copy.root, "-1")
    shutil.copytree(copy.source_model.parents[2], damaged.source_model.parents[2])
    shutil.copytree(copy.dense, damaged.dense)
    (damaged.source_model / "images.bin").write_bytes(b"x")
    shutil.rmtree(copy.undistorted)
    assert undistort(copy.root) == 1 and copy.undistorted.is_dir() and not damaged.undistorted.exists()
    assert "1 of 2 scenes failed, first -1: " in capsys.readouterr().err
    shutil.copytree(copy.undistorted, damaged.undistorted)
    (damaged.undistorted / "sparse" / "images.bin").write_bytes(b"x")
    (copy.root / "info" / "0000.npz").unlink()
    assert prepare(copy.root) == 1
    assert [path.name for path in (copy.root / "info").iterdir()] == ["0000.npz"]
    assert "1 of 2 scenes failed, first -1: " in capsys.readouterr().err


def test_depth_maps_of_another_size_are_left_out(copy: MegaDepthScene, capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File(copy.dense / "depths" / "b1.h5", "w") as file:
        file["depth"] = np.ones((50, 60), np.float32)
    (copy.dense / "depths" / "c2.h5").write_bytes(b"x" * 5000)
    (copy.root / "info" / "0000.npz").unlink()
    assert prepare(copy.root, "--min_depth_kb", "0") == 0
    found = SceneInfo.load(copy.root / "info" / "0000.npz")
    assert [Path(path).name for path in found.image_paths.tolist() if path] == ["a 0.jpg", "d3.jpg"]
    told = capsys.readouterr().out
    assert "b1.h5 is (50, 60)" in told and "c2.h5" in told and "mask.h5" in told


def test_a_data_set_that_is_not_undistorted_names_the_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "MegaDepth_v1_SfM" / "0000").mkdir(parents=True)
    assert run_module("d2net", ["prepare", "--base_path", str(tmp_path), "--output_path", str(tmp_path / "info")]) == 2
    assert "no folder Undistorted_SfM" in (error := capsys.readouterr().err) and "run d2s d2net undistort first" in error
    assert run_module("d2net", ["undistort", "--base_path", str(tmp_path / "MegaDepth_v1_SfM")]) == 2
    assert "no folder MegaDepth_v1_SfM" in (error := capsys.readouterr().err) and "undistort first" not in error


def test_scene_lists(tmp_path: Path) -> None:
    assert (len(TRAIN_SCENES), len(VALID_SCENES)) == (117, 77) and not set(TRAIN_SCENES) & set(VALID_SCENES)
    (tmp_path / "list.txt").write_text("0015 0022\n0022\n")
    assert read_scene_list(tmp_path / "list.txt") == ["0015", "0022"]
    with pytest.raises(MissingFileError):
        read_scene_list(tmp_path / "none.txt")
    (tmp_path / "list.txt").write_text(" \n")
    with pytest.raises(InputError, match="names no scene"):
        read_scene_list(tmp_path / "list.txt")
