"""hloc's small formats, its configurations and the rules by which its files are made anew, without hloc."""

from __future__ import annotations

import argparse
import sys

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from d2s.commands import doctor
from d2s.errors import FormatError, InputError, MissingFileError, MissingPackageError
from d2s.features.table import extractor_from_settings
from processing import preprocessing
from processing.hloc import again, options, outputs, package, precision
from processing.hloc.driver import DriveOptions, Driver, exact_count
from processing.hloc.extractors import recover, settings_record
from processing.hloc.formats import HlocMatches, RawFeatures, read_pairs, read_queries, write_pairs
from processing.hloc.names import hloc_names

MATCHES = np.array([2, -1, 0, -1, 3], np.int16)
A, B = "seq-01/a.png", "seq-02/b.png"
FAKE_MATCHERS = {
    "superglue": "superglue",
    "superpoint+lightglue": "lightglue",
    "NN-superpoint": "nearest_neighbor",
    "NN-mutual": "nearest_neighbor",
}
NEEDS_WEIGHTS = "class Model:\n    def __init__(self, conf):\n        print('Loading')\n        open('/nowhere/superglue_outdoor.pth')\n"
NEEDS_NOTHING = "class Model:\n    def __init__(self, conf):\n        print('Loaded', conf.pop('name'))\n"
LOADER = "import importlib\ndef dynamic_load(root, name):\n    return importlib.import_module(f'{root.__name__}.{name}').Model\n"


@pytest.mark.parametrize("key", ["seq-01-a.png/seq-02-b.png", "seq-01-a.png_seq-02-b.png"])
def test_matches_under_old_and_new_names_in_either_order(tmp_path, key):
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        file.create_group(key).create_dataset("matches0", data=MATCHES)
    with HlocMatches(tmp_path / "m.h5") as matches:
        assert_array_equal(matches.read(A, B), [[0, 2], [2, 0], [4, 3]])
        assert_array_equal(matches.read(B, A), [[2, 0], [0, 2], [3, 4]])
        assert (A, B) in matches and (A, "c.png") not in matches
        with pytest.raises(MissingFileError, match="no matches"):
            matches.read(A, "c.png")


def test_pairs_come_back_and_bad_lines_are_named(tmp_path):
    write_pairs(tmp_path / "p.txt", [(A, B), (B, A)])
    assert (tmp_path / "p.txt").read_text() == f"{A} {B}\n{B} {A}"
    assert read_pairs(tmp_path / "p.txt") == [(A, B), (B, A)]
    (tmp_path / "p.txt").write_text(f"{A} {B}\n\n{A}\n")
    with pytest.raises(FormatError, match=r"p\.txt:3"):
        read_pairs(tmp_path / "p.txt")


def test_query_lists_give_cameras(tmp_path):
    path = tmp_path / "query_list_with_intrinsics.txt"
    path.write_text(f"# queries\n{A} SIMPLE_RADIAL 1920 1080 1670.5 960 540 -0.01\n{B} PINHOLE 640 480 500 510 320 240")
    cameras = read_queries(path)
    assert cameras[A].model.name == "SIMPLE_RADIAL" and cameras[A].params[3] == -0.01
    assert (cameras[B].width, cameras[B].params[1]) == (640, 510)
    path.write_text(f"{A} PINHOLE 640 480 500")
    with pytest.raises(FormatError, match=r"intrinsics\.txt:1: Camera model PINHOLE takes 4"):
        read_queries(path)


def test_best_rows_are_by_score_then_by_scale():
    def raw(scores, scales):
        n = 5
        return RawFeatures(np.zeros((n, 2)), scores, scales, np.zeros((8, n)), (640, 480))

    scores = np.array([0.1, 0.5, 0.3, 0.5, 0.2], np.float16)
    assert_array_equal(raw(scores, None).best(3), [1, 3, 2])
    scales = np.array([1.0, 9, 3, 2, 5])
    assert_array_equal(raw(np.zeros(5), scales).best(2), [1, 4])  # hloc's SIFT has no scores
    assert_array_equal(raw(None, None).best(9), np.arange(5))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        (["a/1.png", "a/2.png"], ["a/2.png", "a/1.png"], {"a/1.png": "a/1.png", "a/2.png": "a/2.png"}),
        (["a/1.jpg"], ["a/1.png"], {"a/1.jpg": "a/1.png"}),
        (["a/1.png"], ["fire/a/1.png"], {"a/1.png": "fire/a/1.png"}),
        (["images/a/1.png"], ["a/1.png"], {"images/a/1.png": "a/1.png"}),
        (["a/1.png", "b/1.png"], ["b/1.png"], {"b/1.png": "b/1.png"}),
    ],
)
def test_names_are_brought_together(ours, theirs, expected):
    assert hloc_names(ours, theirs, "file") == expected


def test_names_of_another_scene_are_refused():
    with pytest.raises(InputError, match=r"theirs look like x\.png"):
        hloc_names(["a.png"], ["x.png"], "file")


def test_loss_of_half_precision_follows_its_spacing():
    assert precision.largest_loss(np.array([[639.5, 479.5]], np.float16)) == 0.25
    assert precision.largest_loss(np.array([[1500.0, 3.0]], np.float16)) == 0.5
    assert precision.largest_loss(np.array([[2500.0, 3.0]], np.float16)) == 1.0
    assert precision.largest_loss(np.array([[2500.0, 3.0]], np.float32)) == 0.0


@pytest.mark.parametrize("size", [(1920, 1080), (3000, 4000), (640, 480), (1599, 1201)])
def test_grid_is_restored_exactly(size):
    rng = np.random.default_rng(0)
    small = np.round(np.array(size) * min(1, 1024 / max(size)))
    pixels = rng.integers(4, small - 4, (500, 2))
    exact = (pixels + 0.5) * (np.array(size) / small) - 0.5
    found = precision.restored(exact.astype(np.float16), size, 1024)
    np.testing.assert_allclose(found, exact, atol=1e-3)
    assert precision.restored(rng.uniform(4, 1000, (500, 2)).astype(np.float16), size, 1024) is None


@pytest.mark.parametrize(
    ("name", "feature", "options"),
    [
        ("feats-superpoint-n4096-r1024", "superpoint", {"max_side": 1024, "nms_radius": 3, "sampling": "hloc", "score_threshold": 0.005}),
        ("feats-superpoint-n2048-r1024", "superpoint", {"max_side": 1024, "nms_radius": 3, "sampling": "hloc", "score_threshold": 0.005}),
        ("feats-superpoint-n4096-r1600", "superpoint", {"max_side": 1600, "nms_radius": 4, "sampling": "hloc", "score_threshold": 0.005}),
        ("feats-superpoint-n4096-rmax1600", "hloc:feats-superpoint-n4096-rmax1600", {}),
        ("feats-disk", "disk", {"max_side": 1600}),
        ("feats-d2net-ss", "d2net", {"max_side": 1600, "max_sum_edges": None, "coordinates": "legacy"}),
        ("feats-aliked-n16", "aliked", {"max_side": 1024}),
        ("feats-r2d2-n5000-r1024", "hloc:feats-r2d2-n5000-r1024", {}),
        ("feats-sift", "hloc:feats-sift", {}),
    ],
)
def test_settings_are_recovered_from_hlocs_names(tmp_path, name, feature, options):
    path = tmp_path / f"{name}.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("a/1.png")
        for key, value in (
            ("keypoints", np.zeros((2, 2))),
            ("scores", [0.2, 0.0051]),
            ("descriptors", np.zeros((8, 2))),
            ("image_size", [9, 9]),
        ):
            group.create_dataset(key, data=np.asarray(value))
    found = recover(path)
    assert (found.name, dict(found.options)) == (feature, options)
    record = settings_record(found, 2048, 128)
    assert record["num_keypoints"] == 2048
    if not found.equal:
        with pytest.raises(InputError, match="no equal extractor here"):
            extractor_from_settings(record)


def test_superpoint_is_asked_for_exactly_so_many_keypoints():
    conf = {"output": "feats-superpoint-n4096-r1024", "model": {"name": "superpoint", "nms_radius": 3, "max_keypoints": 4096}}
    made = exact_count(conf, 2048)
    assert made["output"] == "feats-superpoint-n2048-r1024"
    assert made["model"] == {"name": "superpoint", "nms_radius": 3, "max_keypoints": 2048, "keypoint_threshold": 0.0}


def test_files_are_made_anew_only_when_their_settings_change(tmp_path):
    driver, calls = Driver(DriveOptions("sift", 100), tmp_path), []

    def work(path):
        calls.append(path)
        path.write_text(str(len(calls)))

    assert driver._make("a.h5", {"n": (1, 2)}, work) == tmp_path / "a.h5"
    driver._make("a.h5", {"n": [1, 2]}, work)
    assert len(calls) == 1
    driver._make("a.h5", {"n": 3}, work)
    assert (tmp_path / "a.h5").read_text() == "2"
    (tmp_path / "b.h5").write_text("the user's")
    with pytest.raises(InputError, match="nothing says how it was made"):
        driver._make("b.h5", {}, work)
    assert (tmp_path / "b.h5").read_text() == "the user's"


def test_pairs_are_of_training_images_alone(tmp_path):
    write_pairs(tmp_path / "given.txt", [("a", "b"), ("a", "query"), ("b", "c")])
    driver = Driver(DriveOptions("sift", 100, pairs=str(tmp_path / "given.txt")), tmp_path)
    made = driver._given_pairs(tmp_path / "given.txt", {"a", "b", "c"})
    assert read_pairs(made) == [("a", "b"), ("b", "c")]
    driver._restricted(lambda path: write_pairs(path, [("a", "query"), ("b", "a")]), {"a", "b"}, tmp_path / "covis.txt")
    assert read_pairs(tmp_path / "covis.txt") == [("b", "a")]
    with pytest.raises(InputError, match="no pair of two training images"):
        driver._restricted(lambda path: write_pairs(path, [("a", "query")]), {"a", "b"}, tmp_path / "covis.txt")
    with pytest.raises(MissingFileError, match="is not a file"):
        driver._given_pairs(tmp_path / "nothing.txt", {"a"})


def test_what_breaks_off_leaves_nothing(tmp_path):
    driver = Driver(DriveOptions("sift", 100), tmp_path)

    def work(path):
        path.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        driver._make("a.h5", {}, work)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def fake_hloc(tmp_path, monkeypatch):
    """A package that looks like hloc, cloned into third_party/, whose SuperPoint lacks its submodule."""
    monkeypatch.setattr(doctor.d2s, "__file__", str(tmp_path / "d2s" / "__init__.py"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "loc" not in entry])
    for name in [name for name in sys.modules if name.partition(".")[0] == "hloc"]:
        monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "third_party" / "Hierarchical-Localization" / "hloc"
    (folder / "extractors").mkdir(parents=True)
    (folder / "__init__.py").write_text("__version__ = '1.5'\n")
    conf = {"superpoint_aachen": {"output": "feats-superpoint-n4096-r1024", "model": {"name": "superpoint", "max_keypoints": 4096}}}
    (folder / "extract_features.py").write_text(f"confs = {conf}\n")
    (folder / "extractors" / "__init__.py").touch()
    (folder / "extractors" / "superpoint.py").write_text("import SuperGluePretrainedNetwork\n")
    confs = {name: {"output": name, "model": {"name": module}} for name, module in FAKE_MATCHERS.items()}
    (folder / "match_features.py").write_text(f"confs = {confs}\n")
    (folder / "matchers").mkdir()
    (folder / "matchers" / "__init__.py").touch()
    (folder / "matchers" / "superglue.py").write_text(NEEDS_WEIGHTS)
    (folder / "matchers" / "lightglue.py").write_text("import lightglue_that_is_not_here\n")
    (folder / "matchers" / "nearest_neighbor.py").write_text(NEEDS_NOTHING)
    (folder / "utils").mkdir()
    (folder / "utils" / "__init__.py").touch()
    (folder / "utils" / "base_model.py").write_text(LOADER)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "hloc"]:
        del sys.modules[name]


def test_clone_is_imported_and_its_configurations_stay(fake_hloc):
    conf = package.configuration("extract_features", "superpoint_aachen")
    conf["model"]["max_keypoints"] = 1
    assert package.hloc_module("extract_features").confs["superpoint_aachen"]["model"]["max_keypoints"] == 4096
    assert package.version() == "1.5"
    with pytest.raises(InputError, match="superpoint_aachen"):
        package.configuration("extract_features", "orb")


def test_missing_submodule_is_said_and_our_extractor_taken(fake_hloc, tmp_path, caplog):
    assert "No module named 'SuperGluePretrainedNetwork'" in package.usable("extractors", {"name": "superpoint"})
    with caplog.at_level("INFO"):
        assert Driver(DriveOptions("superpoint", 2048), tmp_path)._extractor_conf() is None
    assert "Features come from our own superpoint extractor" in caplog.text
    with pytest.raises(InputError, match="cannot be used here"):
        Driver(DriveOptions("superpoint", 2048, conf="superpoint_aachen"), tmp_path)._extractor_conf()


def test_matcher_without_its_weights_gives_way_to_the_next(fake_hloc, tmp_path, caplog, capsys):
    """The submodule's code may be there without its checkpoints: hloc would stop in the middle, after all features are extracted."""
    with caplog.at_level("INFO"):
        assert Driver(DriveOptions("superpoint", 2048), tmp_path)._matcher_name() == "NN-superpoint"
    assert "superglue cannot be used here, its weights do not load" in caplog.text and "superglue_outdoor.pth" in caplog.text
    assert "lightglue_that_is_not_here" in caplog.text
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match=r"superglue_outdoor\.pth.*Choose another --hloc_matcher"):
        Driver(DriveOptions("superpoint", 2048, matcher="superglue"), tmp_path)._matcher_name()


def test_without_hloc_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(package, "find_hloc", lambda: None)
    with pytest.raises(MissingPackageError, match="git clone --recursive"):
        package.hloc_module("triangulation")


@pytest.fixture
def decide(tmp_path, monkeypatch):
    """Which way some options lead, with or without hloc, where no outputs are found."""
    monkeypatch.setattr(outputs, "THIRD_PARTY", tmp_path / "third_party")

    def choose(*arguments, hloc=False):
        monkeypatch.setattr(options, "find_hloc", lambda: tmp_path if hloc else None)
        parser = argparse.ArgumentParser()
        preprocessing.add_arguments(parser)
        args = parser.parse_args(["--dataset", "7scenes", "--cudaid", "-1", *map(str, arguments)])
        return options.hloc_input(args, "7scenes", tmp_path / "dataset" / "7scenes" / "heads")

    return choose


@pytest.mark.parametrize(("hloc", "expected"), [(False, "hloc is not installed"), (True, "hloc is not asked for")])
def test_auto_without_outputs_takes_the_native_path_and_says_so(decide, caplog, hloc, expected):
    with caplog.at_level("INFO"):
        assert decide(hloc=hloc) is None
    (line,) = caplog.messages
    assert expected in line and "native path" in line


def test_native_says_nothing(decide, caplog):
    assert decide("--sfm", "native", hloc=True) is None
    assert not caplog.messages


def test_hloc_asked_for_and_absent_is_one_line_with_the_way_to_get_it(decide):
    with pytest.raises(
        MissingPackageError, match=r"no outputs of hloc for 7scenes/heads, and hloc is not installed.*git clone --recursive"
    ):
        decide("--sfm", "hloc")


def test_hloc_is_run_where_it_is_there(decide, tmp_path):
    own = decide("--sfm", "hloc", "--features", "superpoint", "--num_keypoints", "1000", hloc=True)
    assert own.drive.folder == tmp_path / "dataset" / "7scenes" / "heads" / "hloc"
    assert (own.drive.options.features, own.drive.options.num_keypoints) == ("superpoint", 1000)
    assert own.record()["drive"]["pairs"] == "overlap"
    (tmp_path / "out").mkdir()
    given = decide("--hloc_out_dir", tmp_path / "out", "--hloc_matcher", "NN-mutual", "--hloc_pairs", "poses", hloc=True)
    assert given.drive.folder == tmp_path / "out" / "7scenes" / "heads"
    assert (given.drive.options.matcher, given.drive.options.pairs) == ("NN-mutual", "poses")
    with pytest.raises(InputError, match="there are none"):
        decide("--sfm", "hloc", "--hloc_features", "feats.h5", hloc=True)


def test_keypoints_are_found_again_up_to_their_rounding():
    rng = np.random.default_rng(0)
    exact = rng.uniform(1100, 1800, (200, 2)).astype(np.float32)
    order = rng.permutation(200)
    found = again.same_places(exact.astype(np.float16), exact[order])
    assert_array_equal(order[found[found >= 0]], np.flatnonzero(found >= 0))
    assert (found >= 0).mean() > 0.9
    assert (again.same_places(exact, exact[order] + 5) >= 0).mean() < 0.1
    assert len(again.same_places(exact[:0], exact)) == 0
    with pytest.raises(InputError, match="only 0% of hloc's keypoints of image x"):
        again.require_found("x", np.full(10, -1))
