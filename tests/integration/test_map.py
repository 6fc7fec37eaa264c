"""`d2s map` as a stranger runs it: photos without anything known, upright and turned, one broken; killed once, and finished."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from PIL import Image

from d2s.geometry import pose
from d2s.geometry.alignment import robust_similarity
from d2s.scene.manifest import Scene
from processing.adapters.demo import make_demo_camera
from processing.gallery.renderer import Renderer
from processing.gallery.scenes import SCENES

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
    command += ["--set", "training.n_iters=30", "--set", "model.width=32", "--scale", "IMG_1.jpg IMG_16.jpg 2.5"]
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
    assert told["check"]["found"] == told["check"]["queries"] == 2 and "This place can be localized well." in output
    assert told["scale"]["units"] == "metres" and "1 measured distance" in output
    assert (tmp_path / "place" / "check" / "report.html").is_file()
    scene = Scene.load(next((tmp_path / "place" / "scene").glob("*/*/scene.json")).parent)
    assert_poses(scene, walk)
    new = [*("--model", tmp_path / "place" / "model"), *("--image", tmp_path / "hall" / "IMG_4.jpg"), "--json", "--cudaid", "-1"]
    answer = tiny.d2s("localize", *new, "--camera", f"SIMPLE_RADIAL 288 384 {520 * 0.6} 144 192 -0.05")
    assert json.loads(answer.splitlines()[-1])["success"]


def assert_poses(scene: Scene, walk) -> None:
    """The upright photos lie where they were rendered from, in metres up to what one measured distance says."""
    upright = [image for image in scene.images if int(image.name[4:-4]) - 1 not in TURNED]
    found = np.stack([image.cam_from_world for image in upright])
    true = np.stack([walk[int(image.name[4:-4]) - 1][1] for image in upright])
    similarity, _ = robust_similarity(pose.center(found), pose.center(true))
    errors = np.linalg.norm(similarity.apply_points(pose.center(found)) - pose.center(true), axis=1)
    assert np.median(errors) < 0.02
    ends = {image.name: pose.center(image.cam_from_world) for image in scene.images}
    assert np.linalg.norm(ends["IMG_1.jpg"] - ends["IMG_16.jpg"]) == pytest.approx(2.5, rel=1e-6)
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
