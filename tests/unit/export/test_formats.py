"""Written files read back by others: pycolmap, our own adapters, and readers written here."""

from __future__ import annotations

import json
import struct

import numpy as np
import pycolmap
import pytest

from d2s.errors import InputError
from d2s.export import colmap, nerfstudio, ply
from d2s.export.content import Content, Points, View, scene_content, with_colors
from d2s.geometry import pose
from d2s.geometry.camera import parse_camera, project, unproject
from processing.adapters import colmap as colmap_adapter
from processing.adapters import nerfstudio as nerfstudio_adapter
from processing.adapters.base import AdapterOptions

TEN_CAMERAS = [
    "SIMPLE_PINHOLE 200 150 160 101 74",
    "SIMPLE_RADIAL 200 150 160 101 74 -0.05",
    "PINHOLE 200 150 130 131 100 75",
    "RADIAL 200 150 130 100 75 0.03 -0.02",
    "OPENCV 200 150 150 151 99 76 0.02 -0.01 0.001 0.002",
    "FULL_OPENCV 200 150 150 151 99 76 0.02 -0.01 0.001 0.002 0.003 0 0 0",
    "OPENCV_FISHEYE 200 150 120 121 99 76 0.02 -0.01 0.001 0.002",
    "SIMPLE_RADIAL_FISHEYE 200 150 120 99 76 0.02",
    "RADIAL_FISHEYE 200 150 120 99 76 0.02 -0.01",
    "FOV 200 150 120 121 99 76 0.4",
]


@pytest.fixture
def content(made) -> Content:
    return with_colors(scene_content(made.scene, made.folder))


def without_spaces(content):
    return Content(content.cameras, tuple(view for view in content.views if " " not in view.name), content.points, content.units)


@pytest.mark.parametrize("text", [False, True])
def test_colmap_model_is_what_pycolmap_reads(content, tmp_path, text):
    content = without_spaces(content) if text else content
    out = tmp_path / "out"
    out.mkdir()
    colmap.write(out, content, text)
    suffix = "txt" if text else "bin"
    lists = {"list_val.txt", "list_test.txt"}
    assert {path.name for path in out.iterdir()} == {f"{name}.{suffix}" for name in ("cameras", "images", "points3D")} | lists
    model = pycolmap.Reconstruction(str(out))
    assert {i: (c.model.name, c.width, c.height, c.params.tolist()) for i, c in model.cameras.items()} == {
        i: (c.model.name, c.width, c.height, c.params.tolist()) for i, c in content.cameras.items()
    }
    images = {image.name: image for image in model.images.values()}
    assert set(images) == {view.name for view in content.views}
    for view in content.views:
        image = images[view.name]
        assert image.camera_id == view.camera_id
        assert image.cam_from_world().matrix() == pytest.approx(view.cam_from_world, abs=1e-12)
        assert len(image.points2D) == len(view.keypoints)
        for point, keypoint, row in zip(image.points2D, view.keypoints, view.point, strict=True):
            assert point.xy == pytest.approx(keypoint.astype(float) + 0.5, abs=1e-9)
            assert point.has_point3D() == (row >= 0) and (row < 0 or point.point3D_id == row + 1)
    assert len(model.points3D) == len(content.points)
    for number, point in model.points3D.items():
        assert point.xyz == pytest.approx(content.points.xyz[number - 1], abs=1e-12)
        assert (point.color == content.points.rgb[number - 1]).all() and point.error == pytest.approx(content.points.error[number - 1])
        assert {(e.image_id, e.point2D_idx) for e in point.track.elements} == {
            (i, row)
            for i, image in model.images.items()
            for row in np.flatnonzero([p.has_point3D() and p.point3D_id == number for p in image.points2D])
        }
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 0.01  # pixels, poses, cameras and points are of one convention


def test_binary_images_have_the_layout_of_colmap_3_6(content, tmp_path):
    """Read as its documentation says, without pycolmap: newer versions read more than old ones do."""
    colmap.write(tmp_path, content)
    data = (tmp_path / "images.bin").read_bytes()
    (count,), at = struct.unpack_from("<Q", data), 8
    for index in range(count):
        image_id, *numbers, camera_id = struct.unpack_from("<I7dI", data, at)
        at += 64
        end = data.index(b"\0", at)
        name, at = data[at:end].decode(), end + 1
        (points,), at = struct.unpack_from("<Q", data, at), at + 8
        ids = [struct.unpack_from("<ddQ", data, at + 24 * row)[2] for row in range(points)]
        at += 24 * points
        view = content.views[index]
        assert (image_id, camera_id, name) == (index + 1, view.camera_id, view.name)
        assert ids == [row + 1 if row >= 0 else 2**64 - 1 for row in view.point.tolist()]
        assert pose.from_qvec_tvec(numbers[:4], numbers[4:]) == pytest.approx(view.cam_from_world, abs=1e-12)
    assert at == len(data)
    assert struct.unpack_from("<Qii", (tmp_path / "cameras.bin").read_bytes()) == (3, 1, 2)  # camera 1 is SIMPLE_RADIAL, model 2


@pytest.mark.parametrize("text", [False, True])
def test_colmap_model_becomes_the_same_scene_again(made, content, text):
    content = without_spaces(content) if text else content
    (made.root / "sparse").mkdir()
    colmap.write(made.root / "sparse", content, text)
    again = colmap_adapter.load(AdapterOptions(dataset_dir=made.root, list_test=made.root / "sparse" / "list_test.txt")).scene
    same_scene(again, content)


def same_scene(scene, content):
    images = {image.name: image for image in scene.images}
    assert set(images) == {view.name for view in content.views}
    for view in content.views:
        image = images[view.name]
        assert (image.split == "test") == (view.split == "test")
        assert image.cam_from_world == pytest.approx(view.cam_from_world, abs=1e-6)
        same_camera(scene.camera(image), content.camera(view))


def same_camera(one, other):
    """Two cameras that see the same pixels along the same rays, to a millionth of a pixel."""
    assert (one.width, one.height) == (other.width, other.height)
    pixels = np.random.default_rng(0).uniform(0, [other.width - 1, other.height - 1], (50, 2))
    rays = np.column_stack([unproject(other, pixels), np.ones(50)])
    assert project(one, rays)[0] == pytest.approx(project(other, rays)[0], abs=1e-6)


def test_text_model_cannot_hold_names_with_spaces(content, tmp_path):
    with pytest.raises(InputError, match="seq 1/05.png.*--text"):
        colmap.write(tmp_path, content, text=True)


def test_a_model_without_images_holds_the_points_alone(content, tmp_path):
    colmap.write(tmp_path, Content({}, (), Points.gray(content.points.xyz), "metres"))
    model = pycolmap.Reconstruction(str(tmp_path))
    assert len(model.points3D) == len(content.points) and len(model.images) == 0


def test_transforms_become_the_same_scene_again(made, content):
    out = made.root / "exported" / "nerf"
    out.mkdir(parents=True)
    nerfstudio.write(out, content, out)
    again = nerfstudio_adapter.load(AdapterOptions(dataset_dir=out)).scene
    names = {image.name: image.split for image in again.images}
    assert names == {view.name: view.split for view in content.views}
    assert again.image_dir == made.root / "images" and again.units == content.units == "metres"
    for view in content.views:
        image = next(image for image in again.images if image.name == view.name)
        assert image.cam_from_world == pytest.approx(view.cam_from_world, abs=1e-6)
        same_camera(again.camera(image), content.camera(view))


def test_transforms_have_opengl_axes_relative_paths_and_a_cloud(made, content):
    out = made.root / "nerf"
    out.mkdir()
    nerfstudio.write(out, content, out)
    transforms = json.loads((out / "transforms.json").read_text())
    frame, view = transforms["frames"][0], content.views[0]
    assert frame["file_path"] == f"../images/{view.name}" and (out / frame["file_path"]).is_file()
    matrix = np.array(frame["transform_matrix"])
    ahead = pose.transform(pose.inverse(view.cam_from_world), [[0.0, 0.0, 1.0]])[0]
    assert matrix @ [0, 0, -1, 1] == pytest.approx([*ahead, 1])  # an OpenGL camera looks along its negative z
    up = pose.transform(pose.inverse(view.cam_from_world), [[0.0, -1.0, 0.0]])[0]
    assert matrix @ [0, 1, 0, 1] == pytest.approx([*up, 1])
    assert frame["camera_model"] == "OPENCV" and frame["k1"] == -0.05 and frame["fl_x"] == frame["fl_y"] == 160
    assert transforms["ply_file_path"] == "sparse_pc.ply" and transforms["units"] == "metres" and transforms["aabb_scale"] >= 1
    vertices, _ = read_ply(out / "sparse_pc.ply")
    assert len(vertices) == len(content.points)


@pytest.mark.parametrize("text", TEN_CAMERAS[:-1])
def test_every_camera_that_transforms_can_hold_comes_back(made, text):
    camera = parse_camera(text)
    view = View("seq1/05.png", made.root / "images/seq 1/05.png", 1, made.scene.images[0].cam_from_world, "train")
    out = made.root / "nerf"
    out.mkdir()
    nerfstudio.write(out, Content({1: camera}, (view,), Points.gray(np.zeros((0, 3))), "metres"), out)
    transforms = json.loads((out / "transforms.json").read_text())
    assert "ply_file_path" not in transforms
    frame = transforms["frames"][0]
    same_camera(nerfstudio_adapter._camera(frame, view.path, "here"), camera)


@pytest.mark.parametrize("text", [TEN_CAMERAS[-1], "FULL_OPENCV 200 150 150 151 99 76 0.02 -0.01 0.001 0.002 0.003 0.01 0 0"])
def test_cameras_that_transforms_cannot_hold_are_refused_by_name(tmp_path, text):
    view = View("a.png", tmp_path / "a.png", 1, np.eye(3, 4), "train")
    with pytest.raises(InputError, match=r"a\.png.*colmap"):
        nerfstudio.write(tmp_path, Content({1: parse_camera(text)}, (view,), Points.gray(np.zeros((0, 3))), "metres"), tmp_path)


def test_transforms_need_a_camera(tmp_path):
    with pytest.raises(InputError, match="none to write"):
        nerfstudio.write(tmp_path, Content({}, (), Points.gray(np.zeros((3, 3))), "metres"), tmp_path)


def read_ply(path):
    """Vertices and faces of a binary little-endian PLY file, from its header alone."""
    data = path.read_bytes()
    head, body = data[: data.index(b"end_header\n") + 11].decode("ascii"), data[data.index(b"end_header\n") + 11 :]
    lines = [line.split() for line in head.splitlines()]
    assert lines[0] == ["ply"] and lines[1] == ["format", "binary_little_endian", "1.0"]
    kinds = {"float": "f", "uchar": "B", "int": "i"}
    elements: dict[str, tuple[int, list[list[str]]]] = {}
    for fields in lines[2:]:
        if fields[0] == "element":
            elements[fields[1]] = (int(fields[2]), [])
            current = elements[fields[1]][1]
        elif fields[0] == "property":
            current.append(fields[1:])
    found, at = {}, 0
    for name, (count, properties) in elements.items():
        found[name] = []
        for _ in range(count):
            row = {}
            for kind, *rest in properties:
                if kind == "list":
                    (length,) = struct.unpack_from("<" + kinds[rest[0]], body, at)
                    at += struct.calcsize(kinds[rest[0]])
                    row[rest[2]] = struct.unpack_from(f"<{length}{kinds[rest[1]]}", body, at)
                    at += struct.calcsize(f"<{length}{kinds[rest[1]]}")
                else:
                    (row[rest[0]],) = struct.unpack_from("<" + kinds[kind], body, at)
                    at += struct.calcsize(kinds[kind])
            found[name].append(row)
    assert at == len(body)
    return found["vertex"], found.get("face", [])


def test_points_in_ply(content, tmp_path):
    ply.write(tmp_path, content, frusta=False)
    assert [path.name for path in tmp_path.glob("*.ply")] == ["points.ply"]
    vertices, faces = read_ply(tmp_path / "points.ply")
    assert faces == []
    assert np.array([[v["x"], v["y"], v["z"]] for v in vertices]) == pytest.approx(content.points.xyz, abs=1e-6)
    assert [[v["red"], v["green"], v["blue"]] for v in vertices] == content.points.rgb.tolist()


def test_cameras_in_ply_are_pyramids_at_their_places(content, tmp_path):
    ply.write(tmp_path, content)
    vertices, faces = read_ply(tmp_path / "cameras.ply")
    places = np.array([[v["x"], v["y"], v["z"]] for v in vertices]).reshape(len(content.views), 5, 3)
    assert len(faces) == 6 * len(content.views)
    depth = 0.02 * ply.extent(content)
    for index, (view, corners) in enumerate(zip(content.views, places, strict=True)):
        camera = content.camera(view)
        assert corners[0] == pytest.approx(pose.center(view.cam_from_world), abs=1e-5)
        local = pose.transform(view.cam_from_world, corners[1:])
        assert local[:, 2] == pytest.approx(depth, rel=1e-3)
        if camera.model.name == "PINHOLE":  # the corners of the image, but for a focal length per axis
            mean = camera.mean_focal_length()
            assert local[0, :2] == pytest.approx(-depth * np.array([camera.width, camera.height]) / 2 / mean, rel=0.05)
        mine = faces[6 * index : 6 * index + 6]
        assert {i for face in mine for i in face["vertex_indices"]} == set(range(5 * index, 5 * index + 5))
        assert {(face["red"], face["green"], face["blue"]) for face in mine} == {ply.COLORS[view.split]}
