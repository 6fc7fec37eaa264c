"""`d2s localize` on a place whose network is replaced by the answers."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2s.cli import main
from d2s.geometry import pose
from d2s.geometry.camera import format_camera, parse_camera
from d2s.scene.manifest import Scene

CAMERA = "SIMPLE_RADIAL 160 120 130 80 60 -0.05"


def localize(place, *more, images=(16,)):
    files = [argument for index in images for argument in ("--image", str(place.image(index)))]
    return main(["localize", "--model", str(place.run_dir / "model"), *files, "--cudaid", "-1", *more])


def test_json_lines_alone_on_standard_output(place, capsys):
    assert localize(place, "--camera", CAMERA, "--json", images=(16, 17, 19)) == 0
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [value["success"] for value in values] == [True, False, True]
    assert [value["image"] for value in values] == [str(place.image(i)) for i in (16, 17, 19)]
    true = {image.name: image.cam_from_world for image in Scene.load(place.scene_dir).images}
    for value, name in ((values[0], "16.png"), (values[2], "19.png")):
        estimated = pose.from_qvec_tvec(value["qvec"], value["tvec"])
        assert pose.pose_error(estimated, true[name])[0] < 0.05
        np.testing.assert_allclose(value["center"], pose.center(estimated), atol=1e-9)
    assert values[1]["qvec"] is None and values[1]["reason"]


def test_lines_for_people(place, capsys):
    assert localize(place, images=(16, 17)) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "16.png: camera at" in first and " m, confidence" in first and "17.png: not localized: only" in second


def test_camera_may_be_left_out(place, capsys):
    assert localize(place, "--json") == 0
    given = json.loads(capsys.readouterr().out)
    assert given["success"] and given["camera"] == format_camera(parse_camera(CAMERA))
    assert given["camera_from"] == "given" and given["sigma_focal"] is None
    for cameras in ((CAMERA, "SIMPLE_PINHOLE 160 120 195 80 60"), ()):
        place.info = replace(place.info, cameras=cameras)
        assert localize(place, "--json") == 0
        out, err = capsys.readouterr()
        found = json.loads(out)
        assert found["success"] and found["camera_from"] == "estimated" and "focal length is estimated" in err
        assert float(found["camera"].split()[3]) == pytest.approx(130, rel=0.02) and 0 < found["sigma_focal"] < 0.02


@pytest.mark.parametrize(
    ("camera", "word"),
    [
        ("SIMPLE_RADIAL 160 120 130 80 60", "takes 4"),
        ("RADIALISH 160 120 130 80 60 0", "SIMPLE_RADIAL"),
        ("SIMPLE_RADIAL 320 240 260 160 120 0", "160x120"),
        ("nonsense", "incomplete"),
    ],
)
def test_wrong_camera_is_one_line(place, capsys, camera, word):
    assert localize(place, "--json", "--camera", camera) == 2
    captured = capsys.readouterr()
    assert word in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_missing_and_corrupt_images_are_one_line(place, capsys):
    place.image(18).write_bytes(b"no image")
    assert localize(place, "--json", images=(18,)) == 2 and "18.png" in capsys.readouterr().err
    assert localize(place, "--json", images=(99,)) == 2 and "99.png" in capsys.readouterr().err


def test_gray_image_gives_the_same_pose(place, capsys):
    localize(place, "--json")
    cv2.imwrite(str(place.image(16)), cv2.imread(str(place.image(16)), cv2.IMREAD_GRAYSCALE))
    localize(place, "--json")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["qvec"] == second["qvec"] and first["tvec"] == second["tvec"]
