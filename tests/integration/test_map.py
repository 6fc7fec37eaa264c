"""`d2s map` as a stranger runs it: photos without anything known, upright and turned, one broken; killed once, and finished. And with a
COLMAP model, a nerfstudio capture and a video."""

from __future__ import annotations

import json
import signal
import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from d2s.cli import run_module
from d2s.geometry import pose
from d2s.geometry.alignment import robust_similarity
from d2s.scene.manifest import Scene
from processing import pipeline
from processing.adapters.demo import make_demo_camera
from processing.gallery.renderer import Renderer
from processing.gallery.scenes import SCENES
from processing.sfm.model_files import read_model

SIZE, FIRST, COUNT = (384, 288), 20, 16
TURNED = (3, 6, 7)


@pytest.fixture(scope="module")
def walk() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of a part of the demo's tour, close to each other, and their true poses."""
    scene, camera = SCENES["gallery"], make_demo_camera(SIZE)
    shots = [shot for shot in scene.shots(150, 40, 0) if shot.split != "test"][FIRST : FIRST + COUNT]
    place = scene.make_place()
    renderer = Renderer(place, scene.make_textures(place, 0), camera)
    return [(renderer.render(shot.cam_from_world, shot.exposure), shot.cam_from_world) for shot in shots]


def write_photos(folder, walk) -> None:
    """As a phone would: some in portrait, which is stored turned, with a note on how to turn it back."""
    folder.mkdir()
    for index, (picture, _) in enumerate(walk):
        exif = Image.Exif()
        exif[0x0112] = 6 if index in TURNED else 1
        stored = np.ascontiguousarray(np.rot90(picture, 1)) if index in TURNED else picture
        Image.fromarray(stored).save(folder / f"IMG_{index + 1}.jpg", quality=95, exif=exif)
    (folder / "IMG_99.jpg").write_bytes(b"\xff\xd8\xff no photo")


def test_photos_become_a_model_with_a_verdict(tiny, walk, tmp_path):
    write_photos(tmp_path / "hall", walk)
    command = ["map", tmp_path / "hall", "--out", tmp_path / "place", "--features", "sift", "--num_keypoints", "1000", "--cudaid", "-1"]
    command += ["--scale", "IMG_1.jpg IMG_16.jpg 2.5"]
    process = tiny.start(*command)
    for line in process.stdout:
        if line.startswith("== Learning the place"):
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "place" / "map.json").exists()
    output = tiny.d2s(*command)
    assert "sfm: finished before" not in output  # the whole stage was finished: nothing of it was even looked at
    told = json.loads((tmp_path / "place" / "map.json").read_text())
    assert told["photos"]["placed"] == COUNT and [lost["name"] for lost in told["photos"]["dropped"]] == ["IMG_99.jpg"]
    assert told["check"]["found"] == told["check"]["queries"] == 2
    assert "This place can be localized well, as far as 2 photos can tell." in output and "Next: d2s train" not in output
    assert told["scale"]["units"] == "metres" and "1 measured distance" in output
    assert (tmp_path / "place" / "check" / "report.html").is_file()
    scene = Scene.load(next((tmp_path / "place" / "scene").glob("*/*/scene.json")).parent)
    assert_poses(scene, walk)
    new = [*("--model", tmp_path / "place" / "model"), *("--image", tmp_path / "hall" / "IMG_4.jpg"), "--json", "--cudaid", "-1"]
    answer = tiny.d2s("localize", *new, "--camera", f"SIMPLE_RADIAL 288 384 {520 * 0.6} 144 192 -0.05")
    assert json.loads(answer.splitlines()[-1])["success"]


def test_a_second_try_has_more_keypoints_and_the_map_has_not(walk, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "firmer", lambda found, again: again())
    write_photos(tmp_path / "hall", walk)
    where = ["--dataset", "photos", "--dataset_dir", str(tmp_path / "hall"), "--out_dir", str(tmp_path / "scenes"), "--skip_bad_images"]
    assert run_module("preprocess", [*where, "--features", "sift", "--num_keypoints", "400", "--cudaid", "-1"]) == 0
    folder = tmp_path / "scenes" / "photos" / "hall"
    whole, own = (max(image.num_points2D() for image in read_model(folder / name).images.values()) for name in ("sfm_all", "sfm"))
    assert own == 400 < whole <= 800
    assert_poses(Scene.load(folder), walk, scaled=False)
    assert not list(folder.glob(".*"))


def assert_poses(scene: Scene, walk, scaled: bool = True) -> None:
    """The upright photos lie where they were rendered from, in metres up to what one measured distance says where they are `scaled`."""
    upright = [image for image in scene.images if int(image.name[4:-4]) - 1 not in TURNED]
    found = np.stack([image.cam_from_world for image in upright])
    true = np.stack([walk[int(image.name[4:-4]) - 1][1] for image in upright])
    similarity, _ = robust_similarity(pose.center(found), pose.center(true))
    errors = np.linalg.norm(similarity.apply_points(pose.center(found)) - pose.center(true), axis=1)
    assert np.median(errors) < 0.02
    ends = {image.name: pose.center(image.cam_from_world) for image in scene.images}
    assert not scaled or np.linalg.norm(ends["IMG_1.jpg"] - ends["IMG_16.jpg"]) == pytest.approx(2.5, rel=1e-6)
    focal = [camera.params[0] for camera in scene.cameras.values() if camera.width == SIZE[0]]
    assert focal[0] == pytest.approx(520 * 0.6, rel=0.01)  # guessed as 460.8


def test_photos_of_nothing_in_common_end_with_one_line(tiny, tmp_path):
    folder = tmp_path / "noise"
    folder.mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 255, (60, 80, 3), np.uint8)
        Image.fromarray(np.repeat(np.repeat(pixels, 4, 0), 4, 1)).save(folder / f"{index}.png")
    process = tiny.start("map", folder, "--out", tmp_path / "place", "--features", "sift", "--num_keypoints", "500", "--cudaid", "-1")
    output = process.communicate()[0]
    assert process.returncode == 1 and "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("d2s map: No model could be started from 6 photos") and "overlap" in last


MOVED, SCALE = Rotation.from_rotvec([0.4, -0.9, 0.3]).as_matrix(), 3.7
"""Another world than the demo's, so that a map which moves the poses it was given is noticed."""
FOCAL = 520 * 0.6
LEFT_OUT = 7


def moved(cam_from_world: np.ndarray) -> np.ndarray:
    """The pose (3, 4) in the other world."""
    rotation = cam_from_world[:, :3] @ MOVED.T
    center = SCALE * MOVED @ pose.center(cam_from_world) + [5.0, -2.0, 30.0]
    return np.column_stack([rotation, -rotation @ center])


def write_colmap(folder, walk) -> None:
    """As COLMAP's automatic reconstruction leaves it: the model of the larger originals, which are not here, and the undistorted one."""
    for model, size in (("sparse/0", 2), ("dense/0/sparse", 1)):
        (folder / model).mkdir(parents=True)
        numbers = " ".join(str(size * value) for value in (*SIZE, FOCAL, SIZE[0] / 2, SIZE[1] / 2))
        (folder / model / "cameras.txt").write_text(f"1 SIMPLE_RADIAL {numbers} -0.05\n")
        lines = [f"{100 - i} {fields(moved(true))} 1 {i:02d}.png\n\n" for i, (_, true) in enumerate(walk)]
        (folder / model / "images.txt").write_text("".join(lines))
        (folder / model / "points3D.txt").touch()
    write_pictures(folder / "dense" / "0" / "images", walk)


def fields(cam_from_world: np.ndarray) -> str:
    qvec, tvec = pose.to_qvec_tvec(cam_from_world)
    return " ".join(repr(float(value)) for value in (*qvec, *tvec))


def write_nerfstudio(folder, walk) -> None:
    """Each frame with intrinsics of its own; the last one is a file that is not there."""
    write_pictures(folder / "images", walk)
    frames = []
    for index, (_, true) in enumerate([*walk, walk[-1]]):
        matrix = pose.homogeneous(pose.inverse(moved(true))) * [1, -1, -1, 1]
        focal = FOCAL * (1 + 1e-3 * (index % 5 - 2))
        intrinsics = {"fl_x": focal, "fl_y": focal, "cx": SIZE[0] / 2, "cy": SIZE[1] / 2, "w": SIZE[0], "h": SIZE[1], "k1": -0.05}
        frames.append({"file_path": f"images/{index:02d}", "transform_matrix": matrix.tolist(), **intrinsics})
    (folder / "transforms.json").write_text(json.dumps({"aabb_scale": 16, "camera_model": "OPENCV", "frames": frames}))


def write_pictures(folder, walk) -> None:
    """All but the one that is localized later."""
    folder.mkdir(parents=True)
    for index, (picture, _) in enumerate(walk):
        if index != LEFT_OUT:
            Image.fromarray(picture).save(folder / f"{index:02d}.png")


def write_turned_video(path, walk) -> None:
    """As a phone films in portrait: the pictures lie on their side, and the file's header says how to turn them."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12.0, SIZE[::-1])
    for index, (picture, _) in enumerate(walk):
        if index != LEFT_OUT:
            writer.write(np.ascontiguousarray(np.rot90(picture[:, :, ::-1], 1)))
    writer.release()
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # of a header of version 0
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


def map_quickly(given, out) -> dict:
    """`d2s map` in this process; what map.json tells."""
    options = ["--features", "sift", "--num_keypoints", "1000", "--cudaid", "-1"]
    assert run_module("map", [str(given), "--out", str(out), *options]) == 0
    return json.loads((out / "map.json").read_text())


def localize_left_out(out, walk, tmp_path, capsys) -> np.ndarray:
    """The pose of the picture that took no part, without a word on its camera."""
    Image.fromarray(walk[LEFT_OUT][0]).save(tmp_path / "new.png")
    capsys.readouterr()
    assert run_module("localize", ["--model", str(out / "model"), "--image", str(tmp_path / "new.png"), "--json", "--cudaid", "-1"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["success"]
    return pose.from_qvec_tvec(answer["qvec"], answer["tvec"])


@pytest.mark.parametrize(("kind", "write"), [("colmap", write_colmap), ("nerfstudio", write_nerfstudio)])
def test_given_poses_keep_their_world(walk, tmp_path, capsys, kind, write):
    write(tmp_path / "hall", walk)
    told = map_quickly(tmp_path / "hall", tmp_path / "place")
    assert told["kind"] == kind and told["photos"]["placed"] == told["photos"]["given"] == COUNT - 1
    assert told["check"]["found"] == told["check"]["queries"] == 2 and "localized well" in told["check"]["verdict"]
    reasons = [lost["reason"] for lost in told["photos"]["dropped"]]
    assert len(reasons) == (2 if kind == "nerfstudio" else 1) and all("no such file" in text or "but not in" in text for text in reasons)
    found, true = localize_left_out(tmp_path / "place", walk, tmp_path, capsys), moved(walk[LEFT_OUT][1])
    assert np.linalg.norm(pose.center(found) - pose.center(true)) < 0.02 * SCALE
    np.testing.assert_allclose(found[:, :3], true[:, :3], atol=0.01)


def test_a_turned_video_becomes_a_map(walk, tmp_path, capsys):
    write_turned_video(tmp_path / "walk.mp4", walk)
    told = map_quickly(tmp_path / "walk.mp4", tmp_path / "place")
    assert told["kind"] == "video" and told["video"]["complete"] and told["photos"]["placed"] == told["video"]["kept"] >= 10
    scene = Scene.load(next((tmp_path / "place" / "scene").glob("*/*/scene.json")).parent)
    assert {(camera.width, camera.height) for camera in scene.cameras.values()} == {SIZE}  # upright
    rows = [int(image.name[6:12]) for image in scene.images]
    true = np.stack([walk[row + (row >= LEFT_OUT)][1] for row in rows])
    centers = pose.center(np.stack([image.cam_from_world for image in scene.images]))
    similarity, _ = robust_similarity(centers, pose.center(true))
    assert np.median(np.linalg.norm(similarity.apply_points(centers) - pose.center(true), axis=1)) < 0.02
    found = pose.center(localize_left_out(tmp_path / "place", walk, tmp_path, capsys))
    assert np.linalg.norm(similarity.apply_points(found[None])[0] - pose.center(walk[LEFT_OUT][1])) < 0.05
