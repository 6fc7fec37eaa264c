"""The SfM layout of 7-Scenes: 7scenes_sfm_triangulated/SCENE/triangulated beside the scenes, as hloc and the published code keep it."""

from __future__ import annotations

import pytest

from d2s.errors import FormatError, InputError, MissingFileError
from processing.adapters.base import AdapterOptions
from processing.adapters.seven_scenes import load

CAMERA_IDS = (11, 4)


@pytest.fixture
def write_layout(miniature, radial, write_seven_scenes, write_sfm_model):
    """DATASET_DIR/7scenes/chess and the model, with two cameras; gives views and cameras by image name."""
    cameras = {11: radial((640, 480), (526.0, 321.0, 239.0, -0.02)), 4: radial((640, 480), (519.0, 318.0, 242.0, 0.03))}

    def write(root, kind="bin", suffix="png", model_suffix="png", place="triangulated"):
        views = write_seven_scenes(root / "chess", suffix)
        images = {name.replace(suffix, model_suffix): (CAMERA_IDS[i % 2], view) for i, (name, view) in enumerate(views.items())}
        model = root / "7scenes_sfm_triangulated" / "chess" / place
        write_sfm_model(model, cameras, images, kind)
        tests = [name for name in images if name.startswith("seq-02")]
        (model / "list_test.txt").write_text("\n".join(tests) + "\n")
        return model, views, {name: cameras[CAMERA_IDS[i % 2]] for i, name in enumerate(views)}

    return write


@pytest.mark.parametrize("given", ["", "7scenes", "7scenes/chess"])
@pytest.mark.parametrize("kind", ["txt", "bin", "old bin"])
def test_model_reprojects_from_every_level(tmp_path, write_layout, assert_radial, given, kind):
    _, views, cameras = write_layout(tmp_path / "7scenes", kind)
    source = load(AdapterOptions(tmp_path / given, "chess", gt="sfm"))
    assert_radial(source.scene, views, cameras)
    assert not source.dropped and source.scene.units == "metres"
    assert {(image.name[:6], image.split) for image in source.scene.images} == {("seq-01", "train"), ("seq-02", "test")}
    assert source.scene.provenance["poses"] == "COLMAP model chess/triangulated, with its cameras"


def test_model_without_the_folder_triangulated_and_images_with_another_extension(tmp_path, write_layout, assert_radial):
    _, views, cameras = write_layout(tmp_path, suffix="jpg", place=".")
    source = load(AdapterOptions(tmp_path, "chess", gt="sfm"))
    assert_radial(source.scene, views, cameras)
    assert {image.split for image in source.scene.images} == {"train", "test"}


def test_original_poses_stay_the_default(tmp_path, miniature, write_layout):
    _, views, _ = write_layout(tmp_path)
    miniature.assert_reprojects(load(AdapterOptions(tmp_path, "chess")).scene, views, lambda name: (525.0, 525.0, 320.0, 240.0))


def test_the_pose_file_in_the_scene_wins_and_gt_file_chooses(tmp_path, miniature, write_layout, assert_radial):
    model, views, cameras = write_layout(tmp_path)
    lines = [f"{name} {view.colmap_fields()} 530" for name, view in views.items()]
    (tmp_path / "chess" / "pgt_sfm.txt").write_text("\n".join(lines))
    scene = load(AdapterOptions(tmp_path, "chess", gt="sfm")).scene
    miniature.assert_reprojects(scene, views, lambda name: (530.0, 530.0, 320.0, 240.0))
    assert "pgt_sfm.txt" in scene.provenance["poses"]
    scene = load(AdapterOptions(tmp_path, "chess", gt="sfm", gt_file=model)).scene
    assert_radial(scene, views, cameras)
    assert "chess/triangulated" in scene.provenance["poses"]


def test_published_pose_files_are_read_from_their_folder(tmp_path, miniature, write_seven_scenes):
    views = write_seven_scenes(tmp_path / "chess")
    folder = tmp_path / "pgt" / "sfm" / "7scenes"
    folder.mkdir(parents=True)
    for split, sequence in (("train", "seq-01"), ("test", "seq-02")):
        lines = [f"{name} {view.colmap_fields()} 527" for name, view in views.items() if name.startswith(sequence)]
        (folder / f"chess_{split}.txt").write_text("\n".join(lines))
    scene = load(AdapterOptions(tmp_path, "chess", gt="sfm", gt_file=folder)).scene
    miniature.assert_reprojects(scene, views, lambda name: (527.0, 527.0, 320.0, 240.0))
    with pytest.raises(MissingFileError, match=r"7scenes holds neither a COLMAP model nor pose files fire_train.txt"):
        (tmp_path / "chess").rename(tmp_path / "fire")
        load(AdapterOptions(tmp_path, "fire", gt="sfm", gt_file=folder))


def test_own_lists_of_the_scene_win_over_the_models(tmp_path, write_layout):
    _, views, _ = write_layout(tmp_path)
    first = next(iter(views))
    (tmp_path / "chess" / "list_test.txt").write_text(first)
    splits = {image.name: image.split for image in load(AdapterOptions(tmp_path, "chess", gt="sfm")).scene.images}
    assert [name for name, split in splits.items() if split == "test"] == [first]


def test_sequence_files_split_where_the_model_has_no_list(tmp_path, write_layout):
    model, _, _ = write_layout(tmp_path)
    (model / "list_test.txt").unlink()
    (tmp_path / "chess" / "TrainSplit.txt").write_text("sequence2\n")
    (tmp_path / "chess" / "TestSplit.txt").write_text("sequence1\n")
    scene = load(AdapterOptions(tmp_path, "chess", gt="sfm")).scene
    assert {(image.name[:6], image.split) for image in scene.images} == {("seq-02", "train"), ("seq-01", "test")}


def test_wrong_inputs_are_named(tmp_path, write_layout):
    model, views, _ = write_layout(tmp_path)
    with pytest.raises(MissingFileError, match=r"pgt_dslam.txt does not exist\."):
        load(AdapterOptions(tmp_path, "chess", gt="dslam"))
    for path in (tmp_path / "chess").rglob("*.pose.txt"):
        path.unlink()
    with pytest.raises(InputError, match=r"--gt sfm reads the poses of .*chess/triangulated"):
        load(AdapterOptions(tmp_path, "chess"))
    (model / "list_test.txt").write_text("seq-02/frame-000000.color.png\nseq-07/frame-000000.color.png\n")
    with pytest.raises(InputError, match=r"list_test.txt names unknown images: seq-07/frame-000000.color.png \(.*list_test.txt:2\)"):
        load(AdapterOptions(tmp_path, "chess", gt="sfm"))
    (model / "cameras.bin").write_bytes(b"")
    with pytest.raises(FormatError, match="triangulated cannot be read"):
        load(AdapterOptions(tmp_path, "chess", gt="sfm"))
    for path in model.iterdir():
        path.unlink()
    with pytest.raises(MissingFileError, match=r"pgt_sfm.txt does not exist, and there is no COLMAP model in .*chess/triangulated"):
        load(AdapterOptions(tmp_path, "chess", gt="sfm"))
    with pytest.raises(MissingFileError, match=r"nowhere does not exist"):
        load(AdapterOptions(tmp_path, "chess", gt="sfm", gt_file=tmp_path / "nowhere"))


def test_packed_scene_and_packed_sequences(tmp_path, write_layout):
    write_layout(tmp_path / "7scenes")
    (tmp_path / "7scenes" / "fire.zip").write_text("")
    with pytest.raises(MissingFileError, match=r"Scene 'fire' is still packed in .*7scenes/fire.zip. Unpack it: unzip"):
        load(AdapterOptions(tmp_path, "fire"))
    (tmp_path / "7scenes" / "chess" / "TestSplit.txt").write_text("sequence3\n")
    (tmp_path / "7scenes" / "chess" / "seq-03.zip").write_text("")
    with pytest.raises(MissingFileError, match=r"TestSplit.txt:1 names sequence3, but .*seq-03 has no image. Unpack it."):
        load(AdapterOptions(tmp_path, "chess"))
