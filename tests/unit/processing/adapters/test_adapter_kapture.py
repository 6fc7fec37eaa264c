from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry import pose
from d2s.geometry.camera import project
from processing.adapters.base import AdapterOptions
from processing.adapters.kapture import load
from processing.adapters.kapture_files import read_tree

HEADER = "# kapture format: 1.1\n"
# Sensor -> (model, width, height, focal lengths, principal point, k1, k2). Ids are text; the second looks like a number and is none.
SENSORS = {
    "cam-left": ("PINHOLE", 64, 48, (60.0, 62.0), (31.0, 25.0), 0.0, 0.0),
    "007": ("RADIAL", 80, 60, (90.0, 90.0), (42.0, 29.0), 0.08, -0.02),
}
PARAMS = {"cam-left": "60, 62, 31, 25", "007": "90,42.0e-0 ,29,0.08,-0.02"}
CAM_FROM_HEAD = pose.from_qvec_tvec([0.9, 0.1, -0.3, 0.2], [0.3, -0.1, 0.2])
HEAD_FROM_BODY = pose.from_qvec_tvec([0.8, -0.2, 0.4, 0.1], [-0.2, 0.5, 0.1])


@dataclass(frozen=True)
class Shot:
    name: str
    sensor: str
    view: object


def pixels(shot, points):
    """Where the shot's camera sees the points, from the view's axes and the textbook's radial distortion."""
    _, _, _, (fx, fy), (cx, cy), k1, k2 = SENSORS[shot.sensor]
    rays = points - shot.view.center
    depth = rays @ shot.view.forward
    x, y = rays @ shot.view.right / depth, rays @ shot.view.down / depth
    r2 = x * x + y * y
    factor = 1 + k1 * r2 + k2 * r2 * r2
    return np.column_stack([fx * factor * x + cx, fy * factor * y + cy]) - 0.5


def line(*fields):
    return ", ".join(str(field) for field in fields) + "\n"


def fields(matrix):
    return [repr(float(value)) for value in np.concatenate(pose.to_qvec_tvec(matrix))]


def cam_from_world(shot):
    return np.linalg.inv(shot.view.world_from_cam)[:3]


@pytest.fixture
def write_tree(write_image):
    """Writes a kapture tree. `cam-left` moves freely; `007` sits on a head, the head on a body, and only the body's pose is known."""

    def write(tree: Path, shots, data: Path | None = None, with_poses: bool = True):
        sensors = tree / "sensors"
        (sensors / "records_data").mkdir(parents=True)
        records, trajectories = HEADER + "# timestamp, device_id, image_path\n", HEADER
        for index, shot in enumerate(shots):
            model, width, height = SENSORS[shot.sensor][:3]
            write_image((data or sensors / "records_data") / shot.name, (width, height))
            records += f"{index:04d} ,{shot.sensor},  {shot.name}\n\n"
            found = cam_from_world(shot)
            if shot.sensor == "007":
                body = pose.compose(pose.inverse(pose.compose(CAM_FROM_HEAD, HEAD_FROM_BODY)), found)
                trajectories += line(index, "body", *fields(body))
            else:
                trajectories += line(index, shot.sensor, *fields(found))
        text = HEADER + "# a comment\n" + "wifi0, , wifi\n" + "gps1, , gnss, EPSG:4326\n"
        for sensor, (model, width, height, *_) in SENSORS.items():
            text += f"{sensor}, , camera, {model}, {width}, {height}, {PARAMS[sensor]}\n"
        (sensors / "sensors.txt").write_text(text)
        (sensors / "records_camera.txt").write_text(records)
        rigs = line("head", "007", *fields(CAM_FROM_HEAD)) + line("body", "head", *fields(HEAD_FROM_BODY))
        (sensors / "rigs.txt").write_text(f"{HEADER}{rigs}body, wifi0,1,0,0,0,0,0,0\n")
        if with_poses:
            (sensors / "trajectories.txt").write_text(trajectories)

    return write


@pytest.fixture
def shots(miniature):
    """Ten images; base names are shared by folders."""
    names = [f"{('left', 'right')[i % 2]}/{i // 2:05d}.png" for i in range(10)]
    return [Shot(name, ("cam-left", "007")[i % 2], view) for i, (name, view) in enumerate(zip(names, miniature.views, strict=True))]


def rewrite(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def assert_reprojects(scene, shot_of, points):
    assert {image.name for image in scene.images} == set(shot_of)
    for image in scene.images:
        found, in_front = project(scene.camera(image), pose.transform(image.cam_from_world, points))
        assert in_front.all()
        np.testing.assert_allclose(found, pixels(shot_of[image.name], points), atol=1e-2, err_msg=image.name)


def test_mapping_and_query_trees_reproject(tmp_path, miniature, shots, write_tree):
    folder = tmp_path / "kapture" / "hall"
    # The same image name, and the same sensor id for another camera, in both trees.
    write_tree(folder / "mapping", shots[:7])
    write_tree(folder / "query", [Shot(shots[0].name, "cam-left", shots[8].view)])
    rewrite(folder / "query" / "sensors" / "sensors.txt", "60, 62, 31, 25", "60, 62, 30, 24")
    scene = load(AdapterOptions(tmp_path, "hall")).scene
    shot_of = {f"mapping/sensors/records_data/{shot.name}": shot for shot in shots[:7]}
    query = f"query/sensors/records_data/{shots[0].name}"
    assert {image.name for image in scene.split("train")} == set(shot_of)
    assert [image.name for image in scene.split("test")] == [query]
    assert scene.units == "metres" and scene.name == "hall"
    assert list(scene.camera(scene.split("test")[0]).params) == [60, 62, 30, 24]
    assert_reprojects(scene.with_images(scene.split("train")), shot_of, miniature.points)


def test_trees_that_share_their_images_by_links(tmp_path, miniature, shots, write_tree):
    for name, part in (("mapping", shots[:8]), ("query", shots[8:])):
        write_tree(tmp_path / name, part, data=tmp_path / "images")
        (tmp_path / name / "sensors" / "records_data").rmdir()
        (tmp_path / name / "sensors" / "records_data").symlink_to(tmp_path / "images")
    scene = load(AdapterOptions(tmp_path)).scene
    assert_reprojects(scene, {shot.name: shot for shot in shots}, miniature.points)
    assert {image.name for image in scene.split("test")} == {shot.name for shot in shots[8:]}


def test_one_tree(tmp_path, miniature, shots, write_tree):
    write_tree(tmp_path, shots)
    shot_of = {shot.name: shot for shot in shots}
    assert_reprojects(load(AdapterOptions(tmp_path)).scene, shot_of, miniature.points)
    (tmp_path / "list_test.txt").write_text(f"{shots[3].name}\n")
    assert [image.name for image in load(AdapterOptions(tmp_path)).scene.split("test")] == [shots[3].name]


def test_folders_of_one_tree_say_what_is_mapped(tmp_path, shots, write_tree):
    named = [Shot(f"{'query' if i in (2, 5) else 'mapping'}/{shot.name}", shot.sensor, shot.view) for i, shot in enumerate(shots)]
    write_tree(tmp_path, named)
    assert {image.name for image in load(AdapterOptions(tmp_path)).scene.split("test")} == {named[2].name, named[5].name}
    (tmp_path / "queries.txt").write_text(named[0].name)
    source = load(AdapterOptions(tmp_path, list_test=tmp_path / "queries.txt"))
    assert [image.name for image in source.scene.split("test")] == [named[0].name]


def test_mapping_alone_is_one_tree(tmp_path, shots, write_tree):
    write_tree(tmp_path / "mapping", shots)
    scene = load(AdapterOptions(tmp_path)).scene
    assert len(scene.split("test")) == 2 and scene.image_dir == tmp_path / "mapping" / "sensors" / "records_data"


def test_queries_without_any_trajectory_are_kept(tmp_path, shots, write_tree):
    write_tree(tmp_path / "mapping", shots[:7])
    write_tree(tmp_path / "query", shots[7:], with_poses=False)
    scene = load(AdapterOptions(tmp_path)).scene
    assert [image.cam_from_world for image in scene.split("test")] == [None] * 3
    assert all(image.cam_from_world is not None for image in scene.split("train"))


def test_images_that_cannot_be_used_are_dropped_with_a_reason(tmp_path, shots, write_tree):
    write_tree(tmp_path, shots)
    sensors = tmp_path / "sensors"
    lines = (sensors / "trajectories.txt").read_text().splitlines()
    tokens = lines[1].split(",")
    lines[1] = ",".join([*tokens[:2], " ", " ", " ", " ", *tokens[6:]])  # no rotation
    lines[2] = ",".join([*lines[2].split(",")[:6], "", "", ""])  # the body's translation is missing
    lines[3] = ",".join([*lines[3].split(",")[:6], "nan", "nan", "nan"])
    del lines[4]
    (sensors / "trajectories.txt").write_text("\n".join(lines))
    (sensors / "records_data" / shots[4].name).unlink()
    (sensors / "sensors.txt").open("a").write("new, , camera, UNKNOWN_CAMERA, 64, 48\n")
    rewrite(sensors / "records_camera.txt", f"0006 ,cam-left,  {shots[6].name}", f"6, new, {shots[6].name}")
    (sensors / "trajectories.txt").open("a").write("\n6, new, 1,0,0,0,0,0,0\n")
    rewrite(sensors / "records_camera.txt", f"0008 ,cam-left,  {shots[8].name}", f"8, wifi0, {shots[8].name}")
    source = load(AdapterOptions(tmp_path))
    reasons = [next((d.reason for d in source.dropped if d.name == shot.name), "") for shot in shots]
    assert ["lacks" in reason for reason in reasons[:3]] == [True] * 3
    assert "no pose for it" in reasons[3] and "but not in" in reasons[4] and reasons[5] == ""
    assert "UNKNOWN_CAMERA: give --camera" in reasons[6] and reasons[7] == "" and "no camera in sensors.txt" in reasons[8]
    assert {image.name for image in source.scene.images} == {shots[5].name, shots[7].name, shots[9].name}


def test_a_given_camera_serves_unknown_ones(tmp_path, shots, write_tree, write_image):
    write_tree(tmp_path, shots[::2])
    rewrite(tmp_path / "sensors" / "sensors.txt", "PINHOLE, 64, 48, 60, 62, 31, 25", "UNKNOWN_CAMERA, 64, 48")
    scene = load(AdapterOptions(tmp_path, camera="SIMPLE_PINHOLE 64 48 60 32 24")).scene
    assert len(scene.images) == 5 and {image.camera_id for image in scene.images} == {1}
    with pytest.raises(InputError, match="UNKNOWN_CAMERA: give --camera"):
        load(AdapterOptions(tmp_path))


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("sensors.txt", "format: 1.1", "format: 2.0", "kapture format 2.0"),
        ("sensors.txt", "PINHOLE, 64", "WIDE, 64", "Unknown camera model 'WIDE'"),
        ("sensors.txt", "60, 62, 31, 25", "60, 62, 31", "sensors.txt:5: Camera model PINHOLE takes 4"),
        ("sensors.txt", "60, 62, 31, 25", "60, x, 31, 25", "'x' is not a number"),
        ("sensors.txt", "64, 48", "64.5, 48", "not an image size"),
        ("sensors.txt", "007, ", "cam-left, ", "defines sensor cam-left again"),
        ("records_camera.txt", "0000 ", "noon ", "records_camera.txt:3: timestamp 'noon'"),
        ("records_camera.txt", "0001 ,007,", "0001, ", "has 2 fields"),
        ("records_camera.txt", "right/00000.png", "left/00000.png", "recorded a second time"),
        ("trajectories.txt", "2, cam-left", "0, cam-left", "a second time"),
        ("trajectories.txt", "2, cam-left, ", "2, cam-left, 1, ", "has 10 fields"),
        ("trajectories.txt", "2, cam-left, ", "2, cam-left, inf, 0, 0, 0, 0, 0, 0 #", "has"),
        ("rigs.txt", "body, wifi0", "007, body", "is a circle"),
        ("rigs.txt", "body, wifi0", "head, 007", "a second time"),
    ],
)
def test_broken_files_are_named(tmp_path, shots, write_tree, file, old, new, expected):
    write_tree(tmp_path, shots)
    rewrite(tmp_path / "sensors" / file, old, new)
    with pytest.raises(FormatError) as error:
        load(AdapterOptions(tmp_path))
    assert expected in str(error.value) and file in str(error.value)


def test_zero_quaternion_is_named(tmp_path, shots, write_tree):
    write_tree(tmp_path, shots)
    (tmp_path / "sensors" / "trajectories.txt").open("a").write("99, cam-left, 0, 0, 0, 0, 1, 1, 1\n")
    with pytest.raises(FormatError, match="trajectories.txt:12"):
        load(AdapterOptions(tmp_path))


def test_missing_records_are_named(tmp_path, shots, write_tree):
    write_tree(tmp_path, shots)
    (tmp_path / "sensors" / "records_camera.txt").unlink()
    with pytest.raises(MissingFileError, match="records_camera.txt does not exist"):
        load(AdapterOptions(tmp_path))


def test_an_image_that_is_both_mapped_and_a_query_is_refused(tmp_path, shots, write_tree):
    for name in ("mapping", "query"):
        write_tree(tmp_path / name, shots, data=tmp_path / "images")
        (tmp_path / name / "sensors" / "records_data").rmdir()
        (tmp_path / name / "sensors" / "records_data").symlink_to(tmp_path / "images")
    with pytest.raises(FormatError, match="left/00000.png is a mapping image and a query"):
        load(AdapterOptions(tmp_path))


def test_agrees_with_the_kapture_package(tmp_path, shots, write_tree):
    """Written by the package: read alike. Read by the package: the same poses, rigs resolved."""
    kapture = pytest.importorskip("kapture", reason="needs the kapture package")
    from kapture.io.csv import kapture_from_dir, kapture_to_dir

    write_tree(tmp_path, shots)
    theirs = kapture_from_dir(str(tmp_path))
    kapture_to_dir(str(tmp_path / "copy"), theirs)
    trajectories = kapture.rigs_remove(theirs.trajectories, theirs.rigs)
    for tree in (read_tree(tmp_path), read_tree(tmp_path / "copy")):
        assert len(tree.records) == len(shots)
        for record in tree.records:
            expected = trajectories[record.timestamp][record.sensor]
            (found,) = tree.poses(record)
            np.testing.assert_allclose(found, pose.from_qvec_tvec(expected.r_raw, expected.t_raw), atol=1e-9)
            camera = theirs.sensors[record.sensor]
            assert tree.cameras[record.sensor].model.name == camera.camera_type.name
            np.testing.assert_allclose(tree.cameras[record.sensor].params, camera.camera_params[2:])
