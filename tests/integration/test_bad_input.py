"""What is wrong with the user's files or options is one clear line on stderr with exit code 2; nothing of the user's is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from d2s.cli import main, run_module
from d2s.scene.manifest import Scene

STEPS = ["--visdom", "off", "--set", "model.blocks=1", "--set", "training.n_iters=4", "--set", "training.max_minutes=0"]


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Folder of a run that ended."""
    folder = tmp_path_factory.mktemp("trained")
    assert run_module("train", [*tiny.scene(folder, "run"), *STEPS]) == 0
    return folder / "run"


@pytest.fixture
def run_copy(trained, tmp_path):
    """A copy of that run to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "logs" / "run"))


@pytest.fixture
def unfinished(run_copy):
    """The run as a kill after its last checkpoint would leave it."""
    shutil.rmtree(run_copy / "model")
    state = json.loads((run_copy / "state.json").read_text())
    (run_copy / "state.json").write_text(json.dumps({**state, "finished_stages": []}))
    return run_copy


@pytest.fixture
def scene_copy(tiny, tmp_path):
    """A copy of the scene to spoil, its images included: the folder for --data_dir."""
    shutil.copytree(tiny.data_dir, tmp_path / "data")
    manifest = tmp_path / "data" / "demo" / "gallery" / "scene.json"
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**value, "image_dir": str(manifest.parent / "images")}))
    return tmp_path / "data"


@pytest.fixture
def refuse(capfd):
    """Runs a command that must fail with one line; gives that line."""

    def run(command, *arguments, code=2):
        capfd.readouterr()
        try:
            found = run_module(command, [str(argument) for argument in arguments])
        except SystemExit as stop:
            found = stop.code
        out, err = capfd.readouterr()
        assert found == code, (found, err, out)
        assert err.count("\n") == 1, err
        assert err.startswith(f"d2s {command}: ")
        assert "Traceback" not in out + err
        return err

    return run


def where(data_dir):
    return ["--dataset", "demo", "--scene", "gallery", "--data_dir", str(data_dir)]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    """Change bytes in the middle, as a failing disk would."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0xFF for byte in data[middle : middle + 64])
    path.write_bytes(data)


def nonsense(path):
    path.write_text("nonsense")


DAMAGES = [truncate, flip, nonsense, Path.unlink]


def damaged(*names):
    return pytest.mark.parametrize(("name", "damage"), [(name, damage) for name in names for damage in DAMAGES])


# The scene


@pytest.mark.parametrize("name", ["scene.json", "features.h5", "labels.h5"])
@pytest.mark.parametrize("damage", [truncate, nonsense, Path.unlink])
def test_training_names_the_damaged_file_of_the_scene(scene_copy, tmp_path, refuse, name, damage):
    damage(scene_copy / "demo" / "gallery" / name)
    assert name in refuse("train", *where(scene_copy), "--log_dir", tmp_path / "logs", *STEPS)


@pytest.mark.parametrize("text", ["[]", "3", '{"format_version": 99}', '{"format_version": 1}'])
def test_a_manifest_of_another_kind_is_named(scene_copy, run_copy, refuse, text):
    (scene_copy / "demo" / "gallery" / "scene.json").write_text(text)
    error = refuse("eval", *where(scene_copy), "--log_dir", run_copy.parent, "--name", "run")
    assert "scene.json" in error
    assert "--overwrite" in error


def test_an_impossible_pose_in_the_manifest_is_named(scene_copy, tmp_path, refuse):
    path = scene_copy / "demo" / "gallery" / "scene.json"
    value = json.loads(path.read_text())
    value["images"][0]["cam_from_world"] = {"qvec": [0, 0, 0, 0], "tvec": [0, 0, 0]}
    path.write_text(json.dumps(value))
    error = refuse("train", *where(scene_copy), "--log_dir", tmp_path / "logs", *STEPS)
    assert "scene.json" in error
    assert "quaternion" in error


def test_features_that_are_not_numbers_are_named(scene_copy, tmp_path, refuse):
    import h5py

    name = Scene.load(scene_copy / "demo" / "gallery").split("train")[3].name
    with h5py.File(scene_copy / "demo" / "gallery" / "features.h5", "r+") as file:
        file[name]["descriptors"][0, 0] = np.nan
    assert f"features of image {name}" in refuse("train", *where(scene_copy), "--log_dir", tmp_path / "logs", *STEPS)


def test_half_preprocessed_scene_says_so(scene_copy, tmp_path, refuse):
    (scene_copy / "demo" / "gallery" / "scene.json").unlink()
    for command in ("train", "eval"):
        error = refuse(command, *where(scene_copy), "--log_dir", tmp_path / "logs")
        assert "not preprocessed, or not to the end" in error
        assert "d2s preprocess" in error


def test_missing_scene_and_dataset_are_named(tiny, tmp_path, refuse):
    for dataset, scene in (("demo", "attic"), ("lego", "gallery")):
        options = ["--dataset", dataset, "--scene", scene, "--data_dir", tiny.data_dir, "--log_dir", tmp_path]
        for command in ("train", "eval"):
            assert f"{dataset}/{scene}/scene.json does not exist" in refuse(command, *options)


def test_damaged_test_images_are_failed_queries_with_a_reason(scene_copy, run_copy, tmp_path):
    queries = scene_copy / "demo" / "gallery" / "images" / "query"
    truncate(queries / "0001.jpg")
    nonsense(queries / "0002.jpg")
    (queries / "0003.jpg").unlink()
    options = [*where(scene_copy), "--log_dir", str(run_copy.parent), "--name", "run", "--out", str(tmp_path / "out")]
    assert run_module("eval", options) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["n_failed"] == 3
    rows = (tmp_path / "out" / "per_image.csv").read_text()
    assert all(reason in rows for reason in ("truncated", "cannot be decoded", "does not exist"))


def test_evaluation_without_images_is_refused(scene_copy, run_copy, refuse):
    shutil.rmtree(scene_copy / "demo" / "gallery" / "images")
    assert "image folder" in refuse("eval", *where(scene_copy), "--log_dir", run_copy.parent, "--name", "run")


# The model


@damaged("model.safetensors", "model.json")
def test_a_damaged_model_is_named(tiny, run_copy, refuse, name, damage):
    damage(run_copy / "model" / name)
    image = tiny.folder / "images" / "query" / "0000.jpg"
    assert name in refuse("localize", "--model", run_copy / "model", "--image", image)
    assert name in refuse("eval", *where(tiny.data_dir), "--log_dir", run_copy.parent, "--name", "run")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("network", "heads", 0),
        ("network", "landmarks", -3),
        ("network", "model", 9),
        ("network", "width", "wide"),
        ("info", "max_error", None),
        ("info", "num_keypoints", "many"),
        ("info", "reliability_threshold", "high"),
        ("info", "unknown", 1),
        ("info", "bounds", 3),
    ],
)
def test_a_model_with_impossible_values_is_named(tiny, run_copy, refuse, section, key, value):
    path = run_copy / "model" / "model.json"
    content = json.loads(path.read_text())
    content[section][key] = value
    path.write_text(json.dumps(content))
    error = refuse("localize", "--model", run_copy / "model", "--image", tiny.folder / "images" / "query" / "0000.jpg")
    assert "model.json is damaged" in error


# Training


@damaged("trainer.safetensors", "trainer.json")
def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(tiny, unfinished, refuse, name, damage):
    newest = sorted((unfinished / "checkpoints").iterdir())[-1]
    damage(newest / name)
    before = sorted(path.name for path in unfinished.rglob("*"))
    assert newest.name in refuse("train", *tiny.scene(unfinished.parent, "run"), *STEPS)
    assert sorted(path.name for path in unfinished.rglob("*")) == before
    shutil.rmtree(newest)  # as the error advises
    assert run_module("train", [*tiny.scene(unfinished.parent, "run"), *STEPS]) == 0


def test_a_damaged_record_does_not_stop_the_training(tiny, unfinished):
    shutil.rmtree(sorted((unfinished / "checkpoints").iterdir())[-1])
    (unfinished / "metrics.jsonl").write_bytes(b'nonsense\n[]\n\xff\n{"total_steps": 0}\n')
    assert run_module("train", [*tiny.scene(unfinished.parent, "run"), *STEPS]) == 0
    assert all(json.loads(line) for line in (unfinished / "metrics.jsonl").read_text().splitlines())


def test_other_settings_and_another_scene_are_refused(tiny, scene_copy, run_copy, refuse):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    run = tiny.scene(run_copy.parent, "run")
    assert "n_iters = 9" in refuse("train", *run, *STEPS, "--set", "training.n_iters=9")
    (scene_copy / "demo" / "gallery" / "scene.json").write_text((tiny.folder / "scene.json").read_text() + "\n")
    assert "another version of the scene" in refuse("train", *run, "--data_dir", scene_copy, *STEPS)
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "training.foo=1"], "unknown key training.foo (from --set)"),
        (["--set", "training.n_iters=-1"], "training.n_iters = -1 (from --set): must be >= 0"),
        (["--set", "training.n_iters=0", "--model", "2"], "training.n_iters = 0 leaves model 2 untrained"),
        (["--set", "nonsense"], "not section.key=value"),
        (["--set", "a.b=1", "--set", "model.heads=0"], "unknown key a.b (from --set); model.heads = 0"),
        (["--config_file", "{missing}"], "missing does not exist"),
        (["--config_file", "{recipe}"], "unknown key model.foo"),
        (["--cudaid", "99"], "--cudaid 99: this machine has"),
        (["--model", "4"], "invalid choice: 4"),
        (["--augment", "1"], "Run: d2s preprocess --process_train_data_augmentation true"),
        (["--unlabel", "1"], "Run: d2s preprocess --process_unlabel_data true"),
        (["--augment", "maybe"], "'maybe' is not a boolean"),
        (["--unlabel_rate", "3"], "between 0 and 1"),
        (["--resume", "{missing}"], "missing is not a whole checkpoint"),
        (["--checkpoint", "9"], "no checkpoint of epoch 9"),
        (["--resume_optim", "1"], "no finished first stage"),
        (["--resume_optim", "1", "--resume", "never"], "starts anew"),
        (["--max_minutes", "-1"], "training.max_minutes = -1: must be >= 0"),
        (["--log_dir", "{file}"], "is a file, but a folder is needed"),
        (["--log_dir", "{file}/logs"], "cannot be written to (Not a directory)"),
        (["--visdom", "on", "--visdom_server", "nonsense"], "No Visdom server answers at nonsense:8097"),
        (["--epochs", "3"], "unrecognized arguments: --epochs 3"),
    ],
)
def test_wrong_options_of_training(tiny, tmp_path, refuse, arguments, expected):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "recipe.ini").write_text("[model]\nfoo = 1\n")
    places = {"missing": tmp_path / "missing", "file": tmp_path / "file", "recipe": tmp_path / "recipe.ini"}
    options = [argument.format(**places) for argument in arguments]
    assert expected in refuse("train", *tiny.scene(tmp_path / "logs", "run"), *STEPS, *options)
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "logs" / "run" / "checkpoints").exists()
    assert run_module("train", [*tiny.scene(tmp_path / "logs", "run"), *STEPS]) == 0  # a wrong start is no obstacle to a right one


# Evaluation and localization


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--name", "other"], "There is no run"),
        (["--epoch", "77"], "no checkpoint of epoch 77. Epochs with a checkpoint: 0, 1"),
        (["--out", "{file}"], "is a file, but a folder is needed"),
        (["--out", "{file}/out"], "cannot be written to"),
        (["--uncer_thres", "3"], "between 0 and 1"),
        (["--pnp", "epnp"], "invalid choice: 'epnp'"),
        (["--max_error", "0"], "must be a positive number of pixels"),
        (["--checkpoint", "{missing}"], "no trained model there"),
        (["--epoch", "1", "--start_epoch", "1"], "exclude each other"),
        (["--score_only", "--out", "{missing}"], "Run d2s eval without --score_only first"),
        (["--cudaid", "99"], "--cudaid 99: this machine has"),
    ],
)
def test_wrong_options_of_evaluation(tiny, trained, tmp_path, refuse, arguments, expected):
    (tmp_path / "file").write_text("mine")
    options = [argument.format(missing=tmp_path / "missing", file=tmp_path / "file") for argument in arguments]
    assert expected in refuse("eval", *tiny.scene(trained.parent, "run"), *options)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--image", "{truncated}"], "truncated.jpg is truncated"),
        (["--image", "{text}"], "text.jpg cannot be decoded"),
        (["--image", "{missing}"], "missing does not exist"),
        (["--image", "{folder}"], "None of 2 images could be localized"),
        (
            ["--image", "{image}", "--camera", "SIMPLE_PINHOLE 640 480 500 320 240"],
            "320x240 pixels but its camera is for 640x480",
        ),
        (["--image", "{image}", "--camera", "BOX 1 2 3"], "Unknown camera model 'BOX'"),
        (["--image", "{image}", "--camera", "PINHOLE 320 240 5"], "takes 4 finite parameters (fx, fy, cx, cy)"),
        (["--image", "{image}", "--camera", "SIMPLE_PINHOLE 320 240 nan 160 120"], "takes 3 finite parameters"),
        (["--image", "{image}", "--camera", "SIMPLE_PINHOLE a b 5 160 120"], "a field that is not a number"),
        (["--image", "{image}", "--camera", ""], "is incomplete"),
        (["--image", "{image}", "--cudaid", "99"], "--cudaid 99: this machine has"),
        (["--image", "{image}", "--weights", "{text}"], "has no weights"),
        (["--image", "{image}", "--model", "{folder}"], "no trained model there"),
        ([], "one of the arguments --image --video --stream is required"),
    ],
)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
def test_wrong_input_of_localization(tiny, trained, tmp_path, refuse, arguments, expected, form):
    image = tiny.folder / "images" / "query" / "0000.jpg"
    shutil.copy(image, tmp_path / "truncated.jpg")
    truncate(tmp_path / "truncated.jpg")
    (tmp_path / "text.jpg").write_text("nonsense")
    files = {"truncated": tmp_path / "truncated.jpg", "text": tmp_path / "text.jpg"}
    places = {**files, "image": image, "missing": tmp_path / "missing", "folder": tmp_path}
    options = [argument.format(**places) for argument in arguments]
    assert expected in refuse("localize", "--model", trained / "model", *options, *form)


# Preprocessing (more in test_preprocess.py)


@pytest.fixture
def chess(tiny, tmp_path):
    """The demo's pictures as a scene of 7-Scenes, with the command line that preprocesses it."""
    source = Scene.load(tiny.folder)
    folder = tmp_path / "chess"
    for number, split in enumerate(("train", "test"), start=1):
        (folder / f"seq-{number:02d}").mkdir(parents=True)
        for index, image in enumerate(source.split(split)[:6]):
            stem = folder / f"seq-{number:02d}" / f"frame-{index:06d}"
            shutil.copy(source.path(image), stem.with_suffix(".color.png"))
            np.savetxt(stem.with_suffix(".pose.txt"), np.linalg.inv(np.vstack([image.cam_from_world, [0, 0, 0, 1]])))
    (folder / "TrainSplit.txt").write_text("sequence1\n")
    (folder / "TestSplit.txt").write_text("sequence2\n")
    camera = ["--camera", "SIMPLE_PINHOLE 320 240 260 161 118"]
    return folder, ["--dataset", "7scenes", "--dataset_dir", folder, "--out_dir", tmp_path / "out", "--num_keypoints", "100", *camera]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("seq-01/frame-000003.pose.txt", "nonsense", "frame-000003.pose.txt is not a pose"),
        ("seq-01/frame-000003.pose.txt", "", "frame-000003.pose.txt is not a pose"),
        ("seq-01/frame-000003.pose.txt", "1 0 0 0\n0 1 0 0", "it has shape (2, 4)"),
        ("seq-02/frame-000003.pose.txt", "2 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1", "not a rotation"),
        ("seq-01/frame-000003.color.png", "nonsense", "frame-000003.color.png is not a readable image"),
        ("seq-02/frame-000003.color.png", "nonsense", "frame-000003.color.png is not a readable image"),
        ("TrainSplit.txt", "nonsense", "TrainSplit.txt:1 is 'nonsense'"),
        ("TrainSplit.txt", "sequence9", "seq-09 has no image"),
        ("TrainSplit.txt", "", "No training image is left"),
        ("list_test.txt", "seq-02/frame-999999.color.png", "list_test.txt names unknown images"),
    ],
)
def test_unreadable_data_is_named(chess, refuse, name, text, expected):
    folder, command = chess
    (folder / name).write_text(text)
    assert expected in refuse("preprocess", *command)
    assert (folder / name).read_text() == text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--list_test", "{missing}"], "Image list {missing} does not exist"),
        (["--gt", "sfm"], "pgt_sfm.txt does not exist"),
        (["--dataset_dir", "{missing}"], "{missing} is not a folder"),
        (["--dataset_dir", "{empty}"], "{empty} is empty"),
        (["--camera", "SIMPLE_PINHOLE 640 480 500 320 240"], "is 320x240, but its camera is for 640x480 images"),
        (["--out_dir", "{file}"], "--out_dir {file} is a file"),
        (["--features", "superpoint", "--weights", "{missing}"], "Weights file {missing} does not exist"),
        (["--features", "superpoint", "--weights", "{file}"], "Weights {file} cannot be loaded"),
        (["--features", "orb"], "invalid choice: 'orb'"),
        (["--dataset", "lego"], "invalid choice: 'lego'"),
        (["--cudaid", "99"], "--cudaid 99: this machine has"),
        (["--min_angle", "nan"], "--min_angle nan must be"),
        (["--max_reprojection_error", "inf"], "--max_reprojection_error inf must be"),
        (["--batch", "0"], "--batch 0 must be"),
    ],
)
def test_wrong_options_of_preprocessing(chess, tmp_path, refuse, arguments, expected):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    places = {name: tmp_path / name for name in ("missing", "empty", "file")}
    options = [argument.format(**places) for argument in arguments]
    assert expected.format(**places) in refuse("preprocess", *chess[1], *options)
    assert (tmp_path / "file").read_text() == "mine"
    assert not list(tmp_path.rglob("scene.json"))


def test_missing_weights_say_what_to_do_offline(chess, tmp_path, refuse, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody answers there: no test needs the network
    error = refuse("preprocess", *chess[1], "--features", "superpoint-open")  # no package carries them
    assert "by hand, or name the file with --weights" in error


@pytest.mark.parametrize("name", ["features.h5", "labels.h5", "stages.json", "sfm/points3D.bin"])
def test_a_damaged_stage_is_named_when_preprocessing_goes_on(scene_copy, refuse, name):
    folder = scene_copy / "demo" / "gallery"
    truncate(folder / name)
    if name.startswith("sfm"):
        (folder / "labels.h5").unlink()  # what is made from it
    demo = ["--demo_option", "mapping_images=32", "--demo_option", "query_images=5", "--demo_option", "size=320x240"]
    error = refuse("preprocess", "--dataset", "demo", *demo, "--num_keypoints", "500", "--out_dir", scene_copy)
    assert name.split("/")[0] in error


def test_unknown_commands_list_the_known_ones(capfd):
    assert main(["trian"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert all(command in error for command in ("preprocess", "train", "eval", "localize", "doctor"))
