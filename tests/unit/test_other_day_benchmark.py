"""The bench of another day: its changes of photos, its splits, the scenes that ask, its figures and its table."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest

from d2s.evaluation.score import Score
from d2s.features.images import image_size
from d2s.geometry import pose
from d2s.geometry.alignment import Similarity
from d2s.geometry.camera import make_camera, project
from d2s.scene.manifest import Scene, SceneImage
from processing.adapters.colmap import model_pose
from processing.gallery.room import make_room
from processing.gallery.tour import shots

ROOT = Path(__file__).resolve().parents[2]
SIZE = (96, 72)


@pytest.fixture(autouse=True)
def neighbours(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def bench(name: str = "other_day"):
    return importlib.import_module(name)


def photo(size: tuple[int, int] = SIZE) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)


def camera_of(size: tuple[int, int] = SIZE):
    return make_camera("OPENCV", *size, [90.0, 92.0, 47.0, 37.5, 0.1, -0.05, 0.002, -0.001])


CHANGES = ("night", "blur", "rain", "jpeg", "people", "tele")


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_depends_on_the_photo_and_its_name_alone(name):
    changes, image = bench("changes"), photo()
    before = image.copy()
    first, camera = changes.change(name, image, camera_of(), "a/1.jpg")
    again, _ = changes.change(name, image, camera_of(), "a/1.jpg")
    assert (first == again).all() and (image == before).all()
    assert first.shape == image.shape and first.dtype == np.uint8 and (first != image).mean() > 0.05
    assert (camera.width, camera.height) == SIZE
    other, _ = changes.change(name, image, camera_of(), "a/2.jpg")
    assert (first == other).all() == (name in ("jpeg", "tele"))  # these draw nothing


def test_all_changes_are_tested():
    assert bench("changes").CHANGES == CHANGES


def test_the_longer_lens_sees_the_same_point_where_its_camera_says():
    changes, camera, size = bench("changes"), make_camera("OPENCV", 961, 723, [900, 905, 470, 370, 0.1, -0.05, 0.002, -0.001]), (961, 723)
    points = np.array([[0.02, 0.03, 1.0], [-0.15, 0.1, 1.0], [0.18, -0.12, 1.0]])
    image = np.zeros((size[1], size[0], 3), np.uint8)
    for number, (x, y) in enumerate(project(camera, points)[0]):
        cv2.circle(image, (round(16 * x), round(16 * y)), 16 * 9, [255 * (number == i) for i in range(3)], -1, cv2.LINE_AA, shift=4)
    changed, tele = changes.change("tele", image, camera, "a.jpg")
    assert tele.mean_focal_length() == pytest.approx(camera.mean_focal_length() / changes.TELE, rel=2e-3)
    y, x = np.mgrid[: size[1], : size[0]]
    for number, expected in enumerate(project(tele, points)[0]):
        light = changed[..., number].astype(float)
        assert np.array([(light * x).sum(), (light * y).sum()]) / light.sum() == pytest.approx(expected, abs=0.1)


def test_night_is_dark_and_warm_and_noisy_and_blur_is_smooth():
    changes, grey = bench("changes"), np.full((72, 96, 3), 160, np.uint8)
    dark, _ = changes.change("night", grey, camera_of(), "a.jpg")
    means = dark.reshape(-1, 3).mean(axis=0)
    assert means[0] > means[2] and means.max() < 130 and dark[..., 1].std() > 5
    noise = np.random.default_rng(0).integers(0, 255, (360, 480, 3), dtype=np.uint8)
    soft, _ = changes.change("blur", noise, camera_of((480, 360)), "a.jpg")
    assert soft.std() < 0.6 * noise.std() and soft.mean() == pytest.approx(noise.mean(), abs=1)


@pytest.mark.parametrize("size", [(640, 480), (270, 480)])
def test_people_hide_about_a_quarter(size):
    changes, image = bench("changes"), np.zeros((size[1], size[0], 3), np.uint8)
    hidden = [changes.change("people", image, camera_of(size), f"{number}.jpg")[0].any(axis=-1).mean() for number in range(12)]
    assert 0.18 < np.mean(hidden) < 0.32 and min(hidden) > 0.1 and max(hidden) < 0.4


def walk(count: int) -> Scene:
    """Cameras on a line; four of five ask."""
    poses = [np.column_stack([np.eye(3), -i * np.array([1.0, 0.2, 0])]) for i in range(count)]
    images = [SceneImage(f"{i:04d}.jpg", 1, cam_from_world, "test" if i % 5 else "train") for i, cam_from_world in enumerate(poses)]
    return Scene("made", "walk", Path("."), {1: camera_of()}, tuple(images), "arbitrary")


def test_ends_ask_beyond_what_was_mapped():
    data = bench("other_day_data")
    mapped, asked = data.ends(walk(900))
    numbers = np.array([int(name[:4]) for name in mapped])
    queries = np.array([int(name[:4]) for name in asked])
    assert len(mapped) == 250 and len(asked) == 40
    assert numbers.min() == 130 and numbers.max() == 769 and np.diff(numbers).max() <= 3
    assert ((queries < 100) | (queries >= 800)).all()


def test_the_other_side_asks():
    data, turns = bench("other_day_data"), np.radians(np.linspace(0, 100, 40))
    poses = [np.array([[np.cos(a), 0, -np.sin(a), 0], [0, 1, 0, 0], [np.sin(a), 0, np.cos(a), 0]]) for a in turns]
    images = [SceneImage(f"{7 * i % 40:04d}.jpg", 1, cam_from_world, "train") for i, cam_from_world in enumerate(poses)]
    mapped, asked = data.sides(Scene("made", "turn", Path("."), {1: camera_of()}, tuple(images)), 0.5, (0.6, 0.8))
    angle = {image.name: turn for image, turn in zip(images, turns, strict=True)}
    assert (len(mapped), len(asked)) == (20, 8)
    away = np.abs(np.subtract.outer([angle[name] for name in asked], [angle[name] for name in mapped]))
    assert np.degrees(away.min()) > 10 and np.degrees(away.min(axis=1).max()) < 32  # what lies between is dropped, and what lies beyond


def test_a_scene_that_asks_keeps_the_map_and_its_files(tmp_path):
    data, scene = bench("other_day_data"), walk(10)
    folder = tmp_path / "scene"
    scene.save(folder)
    (folder / "features.h5").write_bytes(b"of the map")
    tests = [(image, make_camera("SIMPLE_PINHOLE", 10, 10, [i + 1.0, 5, 5])) for i, image in enumerate(scene.split("test"))]
    for _ in range(2):  # again over what is there
        data.write_asked(folder, tmp_path / "asked", tests[:3], tmp_path / "photos")
    asked = Scene.load(tmp_path / "asked")
    assert [image.name for image in asked.split("train")] == [image.name for image in scene.split("train")]
    assert [asked.camera(image).params[0] for image in asked.split("test")] == [1, 2, 3]
    assert all(asked.camera(image).width == SIZE[0] for image in asked.split("train"))
    assert (tmp_path / "asked" / "features.h5").read_bytes() == b"of the map" and asked.image_dir == tmp_path / "photos"


def test_changed_queries_are_photos_of_their_own(tmp_path):
    data = bench("other_day_data")
    scene = Scene("made", "walk", tmp_path / "images", {1: camera_of()}, walk(4).images)
    for image in scene.images:
        data.write_photo(scene.path(image), photo())
    scene.save(tmp_path / "scene")
    data.changed_queries("tele")(tmp_path / "scene", tmp_path / "asked", tmp_path)
    asked = Scene.load(tmp_path / "asked")
    for image, before in zip(asked.split("test"), scene.split("test"), strict=True):
        assert asked.path(image).is_file() and image.name == before.name
        assert asked.camera(image).mean_focal_length() > 1.5 * scene.camera(before).mean_focal_length()
        assert image.cam_from_world == pytest.approx(before.cam_from_world)


def test_furniture_moves_as_a_whole_and_away_from_the_cameras():
    light, room = bench("other_light"), make_room()
    moved = light.rearranged(room, light.MOVED)
    assert [s.name for s in moved.surfaces] == [s.name for s in room.surfaces] and moved.shell == room.shell
    for before, after in zip(room.solids, moved.solids, strict=True):
        assert [s.size for s in after] == [s.size for s in before]
        middles = [
            np.mean([s.origin + w * s.right + h * s.down for s in solid for w, h in [np.array(s.size) / 2]], axis=0)
            for solid in (before, after)
        ]
        x, y, yaw = light.MOVED.get(before[0].name.removesuffix("-front"), (0, 0, 0))
        assert middles[1] - middles[0] == pytest.approx([x, y, 0], abs=1e-9)
        assert np.degrees(np.arccos(np.clip(before[0].right @ after[0].right, -1, 1))) == pytest.approx(abs(yaw), abs=1e-5)
    centers = [pose.center(shot.cam_from_world) for shot in shots(150, 40, 0)]
    for solid in moved.solids:
        assert all(max((center - side.origin) @ side.normal for side in solid) > 0.1 for center in centers)


def test_light_falls_where_the_sun_and_the_lamp_reach():
    light, room = bench("other_light"), make_room()
    white = {side.name: light.relit(side, np.full((60, 80, 3), 200, np.uint8)).astype(float) for side in room.shell}
    sunny = white["wall-south"][..., 0] > 2 * white["wall-south"][..., 0].min()
    assert 0.1 < sunny.mean() < 0.9
    assert white["wall-west"][..., 0].max() < white["wall-south"][sunny][:, 0].min()  # the sun shines through it
    east, west = white["wall-north"][:, 60:].mean(axis=(0, 1)), white["wall-north"][:, :20].mean(axis=(0, 1))
    assert (east > west + 10).all() and east[0] / east[2] > west[0] / west[2]  # the lamp stands there, and its light is warm


def score(t: float, r_deg: float = 0.5, refused: float | None = None) -> Score:
    image = walk(1).images[0]
    if refused is None:
        return Score(
            image,
            image.cam_from_world if np.isfinite(t) else None,
            t,
            r_deg,
            ms={"total": 70.0, "features": 50.0},
            found_t=t,
            found_r_deg=r_deg,
        )
    return Score(image, None, np.inf, np.inf, ms={"total": 80.0}, found_t=refused, found_r_deg=r_deg)


def test_figures_count_recall_and_refusals():
    other_day = bench()
    scores = [score(0.008), score(0.04), score(0.2), score(np.inf, np.inf), score(0, refused=0.03), score(0, refused=0.5)]
    figures = other_day.figures(scores, "metres", 2.0)
    assert figures["recall"] == pytest.approx({"1": 1 / 6, "2": 1 / 6, "5": 2 / 6, "10": 2 / 6, "25": 3 / 6})
    assert figures["refused"] == {"right": 1, "wrong": 1} and figures["failed"] == 3
    assert figures["median_t"] is None and figures["ms"] == pytest.approx(20)
    relative = other_day.figures([score(0.04), score(0.3), score(0, refused=0.03)], "arbitrary", 2.0)
    assert relative["recall"] == pytest.approx({"1": 0, "2": 1 / 3, "5": 1 / 3, "10": 1 / 3})
    assert relative["median_t"] == pytest.approx(15) and relative["refused"] == {"right": 0, "wrong": 1}


def made_row(shift: float = 0.0, queries: int = 20) -> dict:
    run = {"queries": queries, "failed": 0, "recall": dict.fromkeys(("1", "2", "5", "10", "25"), 0.5 + shift), "median_t": 1.5 + shift}
    run |= {"median_r_deg": 0.5, "ms": 80.0, "map_bytes": 3_000_000, "refused": {"right": 1, "wrong": 0}}
    few = {**run, "queries": 10, "recall": dict.fromkeys(run["recall"], 0.25), "median_t": None}
    return {
        "units": "metres",
        "extent": 2.0,
        "mapped": 30,
        "queries": queries,
        "methods": {"ours": [run] * 3, "matching, LightGlue": [few]},
    }


def test_the_table_has_one_line_for_all_changes_of_a_scene():
    table = bench("other_day_table")
    rows = {"fox-side": made_row(), **{f"fox-{name}": made_row(0.1 * i) for i, name in enumerate(CHANGES[:3])}}
    rows["fox-side"]["methods"].pop("matching, LightGlue")
    lines = table.table(rows).splitlines()
    assert lines[0] == "| scene | ours | matching, LightGlue |", "methods that no row has measured have no column"
    assert len(lines) == 4 and lines[2].startswith(
        "| **fox-side**, 30 map, 20 ask | 50 / 50 / 50 %, 1.50 cm, 0.50°; 80 ms, 3.0 MB | not measured |"
    )
    assert (
        lines[3].startswith("| **fox, changed**")
        and "60 / 60 / 60 %, 1.60 cm" in lines[3]
        and "not localized; 80 ms, 3.0 MB, 10 queries" in lines[3]
    )
    assert "3 seeds" in table.describe("fox-side", rows["fox-side"]) and "refused 1/0" in table.describe("fox-side", rows["fox-side"])
    text = f"before {table.BEGIN}old{table.END} after"
    assert table.with_table(text, rows) == f"before {table.BEGIN}{table.table(rows)}{table.END} after"


def test_a_row_that_is_measured_again_replaces_its_methods(monkeypatch, tmp_path, capsys):
    other_day = bench()
    monkeypatch.setattr(other_day, "RESULTS", tmp_path / "other_day.json")
    rows = iter([made_row(), {**made_row(0.2), "methods": {"ours": made_row(0.2)["methods"]["ours"]}}])
    monkeypatch.setattr(other_day, "measure", lambda *_: next(rows))
    for _ in range(2):
        assert other_day.main(["--only", "gallery-light"]) == 0
    kept = json.loads((tmp_path / "other_day.json").read_text())["rows"]["gallery-light"]["methods"]
    assert kept["ours"][0]["recall"]["2"] == pytest.approx(0.7) and kept["matching, LightGlue"][0]["recall"]["2"] == 0.25
    with pytest.raises(SystemExit):
        other_day.main(["--only", "gallery-light", "fox-side"])
    assert "--data_dir is needed to measure fox-side" in capsys.readouterr().err


def test_reconstructions_are_aligned_in_spite_of_cameras_at_wrong_distances():
    data, random = bench("other_day_data"), np.random.default_rng(0)
    turns = [pose.rotation_from_qvec([1.0, *(0.2 * random.normal(size=3))]) for _ in range(10)]
    source = np.stack([np.column_stack([turn, -turn @ random.normal(size=3)]) for turn in turns])
    truth = Similarity(0.4, pose.rotation_from_qvec([0.5, -0.5, 0.7, 0.1]), np.array([3.0, 0.0, -1.0]))
    target = truth.apply_pose(source)
    target[7:, 2, 3] += 0.5  # three stand farther back than they did
    found = data.aligned(source, target)
    assert found.scale == pytest.approx(truth.scale) and found.rotation == pytest.approx(truth.rotation)
    assert found.translation == pytest.approx(truth.translation)


def test_photos_of_another_folder_have_the_poses_of_the_joint_reconstruction(shared_data, tmp_path):
    data, reference = bench("other_day_data"), shared_data / "sacre_coeur" / "reference"
    known = {image.name: model_pose(image, reference) for image in pycolmap.Reconstruction(reference).images.values()}
    map_from_reference = Similarity(0.3, pose.rotation_from_qvec([0.8, 0.2, -0.5, 0.3]), np.array([1.0, -2.0, 0.5]))
    mapped = sorted(path.name for path in (shared_data / "sacre_coeur" / "mapping").iterdir())
    images = [SceneImage(name, 1, map_from_reference.apply_pose(known[name]), "train") for name in mapped]
    Scene("photos", "sacre_coeur", tmp_path, {1: camera_of()}, tuple(images), "arbitrary").save(tmp_path / "scene")
    data.other_photos(tmp_path / "scene", tmp_path / "asked", shared_data)
    asked = Scene.load(tmp_path / "asked")
    assert {image.name for image in asked.split("test") if image.cam_from_world is None} == set(data.DEGENERATE)
    for image in asked.split("test"):
        assert image_size(asked.path(image)) == (asked.camera(image).width, asked.camera(image).height)
        if image.name not in data.DEGENERATE:
            assert image.cam_from_world == pytest.approx(map_from_reference.apply_pose(known[image.name]), abs=1e-6)


def test_the_readme_has_the_figures_that_were_measured():
    table, root = bench("other_day_table"), Path(__file__).resolve().parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8")
    rows = json.loads((root / "benchmarks" / "results" / "other_day.json").read_text(encoding="utf-8"))["rows"]
    assert table.with_table(readme, rows) == readme and "| **statue**, " in readme


def test_the_page_of_experiments_has_the_figures_that_were_measured():
    parts, root = bench("other_day_parts"), Path(__file__).resolve().parents[2]
    page = (root / "docs" / "experiments.md").read_text(encoding="utf-8")
    table = parts.table(json.loads(parts.RESULTS.read_text(encoding="utf-8"))["rows"])
    assert "not measured" not in table and page.split(parts.BEGIN)[1].startswith(table + parts.END)
