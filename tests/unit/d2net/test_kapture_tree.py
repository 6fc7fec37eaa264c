from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from d2s.d2net.kapture_features import DescriptorsConfig, FeatureFolder, KeypointsConfig
from d2s.d2net.kapture_tree import KaptureTree
from d2s.errors import FormatError, InputError, MissingFileError

IMAGES = ("mapping/cam 0/000.jpg", "mapping/cam 0/001.png", "query.jpg", "mapping/cam1/000.jpg", "z.jpg")
"""What the miniature tree lists, in its order."""

KEYPOINTS = KeypointsConfig("d2net", "float32", 3)


@pytest.fixture
def tree(kapture_root: Path) -> KaptureTree:
    return KaptureTree(kapture_root)


def test_images_in_the_order_of_the_table_each_once(tree: KaptureTree) -> None:
    records = tree.root / "sensors" / "records_camera.txt"
    records.write_text(records.read_text() + f"\n# a comment, with, commas\n   \n9, cam0, {IMAGES[2]}\n")
    assert tree.images() == list(IMAGES)
    assert all(tree.image_path(name).is_file() for name in tree.images())


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("sensors.txt", "# kapture format: 1.0\n", "is of kapture format 1.0, not 1.1"),
        ("sensors.txt", "", "kapture format unknown"),
        ("records_camera.txt", "1, cam0\n", "line 1: 3 values separated by commas are needed, not 2"),
        ("records_camera.txt", "1, cam0, ../../secret.jpg\n", "must be relative and stay inside"),
        ("records_camera.txt", "1, cam0, /etc/passwd\n", "must be relative and stay inside"),
    ],
)
def test_wrong_trees_are_one_clear_error(tree: KaptureTree, file: str, text: str, message: str) -> None:
    (tree.root / "sensors" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        KaptureTree(tree.root).images()


def test_no_tree(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"sensors\.txt does not exist"):
        KaptureTree(tmp_path)


def test_files_have_the_layout_of_the_format(tree: KaptureTree) -> None:
    folder = tree.root / "reconstruction"
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with tree.features("keypoints", "d2_tf") as store:
        assert store.config is None
        store.write_config(KEYPOINTS)
        store.write(IMAGES[0], array)
    assert (folder / "keypoints/d2_tf/keypoints.txt").read_text() == "# kapture format: 1.1\n# name, dtype, dsize\nd2net, float32, 3\n"
    assert (folder / f"keypoints/d2_tf/{IMAGES[0]}.kpt").read_bytes() == array.astype("<f4").tobytes()
    with tree.features("descriptors", "d2_tf") as store:
        store.write_config(DescriptorsConfig("d2net", "float32", 512, "d2_tf", "L2"))
        store.write("query.jpg", np.ones((0, 512), np.float32))
    header = "# kapture format: 1.1\n# name, dtype, dsize, keypoints_type, metric_type\n"
    assert (folder / "descriptors/d2_tf/descriptors.txt").read_text() == header + "d2net, float32, 512, d2_tf, L2\n"
    assert (folder / "descriptors/d2_tf/query.jpg.desc").read_bytes() == b""


@pytest.mark.parametrize("tar", [False, True])
def test_round_trip(tree: KaptureTree, tar: bool) -> None:
    folder = tree.root / "reconstruction" / "keypoints" / "r2d2"
    if tar:
        folder.mkdir(parents=True)
        tarfile.open(folder / "keypoints.tar", "w").close()
    arrays = {name: np.random.default_rng(k).random((k + 1, 3), np.float32) for k, name in enumerate(IMAGES)}
    with tree.features("keypoints", "r2d2") as store:
        store.write_config(KEYPOINTS)
        for name, array in arrays.items():
            store.write(name, array)
            store.write(name, array)
    with tree.features("keypoints", "r2d2") as store:
        assert store.config == KEYPOINTS and store.names() == set(IMAGES)
        assert store.rows("nothing.jpg") is None
        for name, array in arrays.items():
            np.testing.assert_array_equal(store.read(name), array)
        with pytest.raises(MissingFileError, match=r"nothing\.jpg\.kpt"):
            store.read("nothing.jpg")
    if tar:
        with tarfile.open(folder / "keypoints.tar") as file:
            assert file.getnames() == [f"{name}.kpt" for name in IMAGES]  # equal arrays were not written twice


@pytest.mark.parametrize("row", ["d2net, float32", "d2net, __import__('os').getcwd(), 3", "d2net, float32, x", "d2net, float32, 0", ""])
def test_a_wrong_config_is_named_and_never_evaluated(tmp_path: Path, row: str) -> None:
    (tmp_path / "keypoints.txt").write_text(f"# kapture format: 1.1\n{row}\n")
    with pytest.raises(FormatError, match=r"keypoints\.txt"):
        FeatureFolder(tmp_path, "keypoints")


def test_a_file_that_is_no_whole_number_of_rows(tree: KaptureTree) -> None:
    with tree.features("keypoints", "d2_tf") as store:
        store.write_config(KEYPOINTS)
        (store.folder / "query.jpg.kpt").write_bytes(bytes(13))
        assert store.rows("query.jpg") is None
        with pytest.raises(FormatError, match=r"query\.jpg\.kpt does not hold rows of 3 float32"):
            store.read("query.jpg")
        with pytest.raises(FormatError, match=r"must be \(N, 3\) float32"):
            store.write("query.jpg", np.zeros((2, 4), np.float32))


def test_types_cannot_lead_out_of_the_tree(tree: KaptureTree) -> None:
    for name in ("../x", "/x", "", "."):
        with pytest.raises(InputError, match="Type of keypoints"):
            tree.features("keypoints", name)


@pytest.mark.parametrize("tar", [False, True])
def test_kapture_itself_reads_and_writes_the_same(tree: KaptureTree, tar: bool) -> None:
    """Against the package: what we write it reads, what it writes we read."""
    kapture = pytest.importorskip("kapture", reason="the package kapture is not installed: the comparison with it is left out")
    from kapture.io import csv, features

    folders = {kind: tree.root / "reconstruction" / kind / "d2_tf" for kind in ("keypoints", "descriptors")}
    for kind, folder in folders.items():
        folder.mkdir(parents=True)
        if tar:
            tarfile.open(folder / f"{kind}.tar", "w").close()
    configs = {
        "keypoints": KEYPOINTS,
        "descriptors": DescriptorsConfig("d2net", "float32", 8, "d2_tf", "L2"),
    }
    ours = {
        kind: {name: np.random.default_rng(k).random((2, config.dsize), np.float32) for k, name in enumerate(IMAGES[:3])}
        for kind, config in configs.items()
    }
    for kind, config in configs.items():
        with tree.features(kind, "d2_tf") as store:
            store.write_config(config)
            for name, array in ours[kind].items():
                store.write(name, array)
    types = {"keypoints": kapture.Keypoints, "descriptors": kapture.Descriptors}
    with csv.get_all_tar_handlers(str(tree.root), mode=dict.fromkeys([*types.values(), kapture.Matches], "a")) as handlers:
        data = csv.kapture_from_dir(str(tree.root), tar_handlers=handlers)
        assert [name for _, _, name in kapture.flatten(data.records_camera)] == tree.images()
        for kind, config in configs.items():
            theirs = getattr(data, kind)["d2_tf"]
            assert set(theirs) == set(IMAGES[:3])
            assert (theirs.type_name, theirs.dtype, theirs.dsize) == (config.name, np.float32, config.dsize)
        assert (data.descriptors["d2_tf"].keypoints_type, data.descriptors["d2_tf"].metric_type) == ("d2_tf", "L2")
        path = features.get_keypoints_fullpath("d2_tf", str(tree.root), IMAGES[3], handlers)
        features.image_keypoints_to_file(path, np.full((4, 3), 7, np.float32))
    with csv.get_all_tar_handlers(str(tree.root)) as handlers:
        for name in IMAGES[:3]:
            for kind, reader, place in (
                ("keypoints", features.image_keypoints_from_file, features.get_keypoints_fullpath),
                ("descriptors", features.image_descriptors_from_file, features.get_descriptors_fullpath),
            ):
                array = reader(place("d2_tf", str(tree.root), name, handlers), np.float32, configs[kind].dsize)
                np.testing.assert_array_equal(array.reshape(2, -1), ours[kind][name])
    with tree.features("keypoints", "d2_tf") as store:
        np.testing.assert_array_equal(store.read(IMAGES[3]), np.full((4, 3), 7))
        csv.keypoints_to_file(str(store.folder / "keypoints.txt"), kapture.Keypoints("other", np.float32, 3))
    assert tree.features("keypoints", "d2_tf").config == KeypointsConfig("other", "float32", 3)
