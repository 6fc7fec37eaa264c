"""`d2s d2net hpatches` on a miniature of HPatches that is rendered here: textures under known homographies and changing light."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from d2s.cli import run_module
from d2s.d2net.hpatches import LARGE, read_hpatches
from d2s.d2net.hpatches_evaluation import Result, evaluate, table
from d2s.d2net.hpatches_plot import plot
from d2s.d2net.hpatches_rows import ExtractedHere, FromFiles
from d2s.errors import InputError, SettingsMismatchError
from d2s.features.sift import SiftExtractor

SIZE = (150, 120)
SEQUENCES = ("i_lamp", "i_dusk", "v_wall")


def homography(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A turn, a scale and a tilt about the middle of the image; the entries' common factor is not 1, as in some published files."""
    if kind == "i":
        return np.eye(3)
    angle, scale = rng.uniform(-0.5, 0.5), rng.uniform(1, 1.5)
    turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = np.array(SIZE) / 2
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, middle - turn @ middle
    matrix[2, :2] = rng.uniform(-1e-4, 1e-4, 2)
    return matrix * 1.7


def make_sequence(folder: Path, suffix: str = ".ppm") -> None:
    folder.mkdir(parents=True)
    seed = sum(map(ord, folder.name))
    rng = np.random.default_rng(seed)
    width, height = SIZE
    image = cv2.resize(rng.integers(20, 200, (height // 5, width // 5, 3), dtype=np.uint8), SIZE, interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / f"1{suffix}"), image)
    for k in range(2, 7):
        matrix = homography(rng, folder.name[0])
        warped = cv2.warpPerspective(image, matrix, SIZE, flags=cv2.INTER_CUBIC)
        light = rng.uniform(0.6, 1.2) if folder.name[0] == "i" else 1.0
        cv2.imwrite(str(folder / f"{k}{suffix}"), np.clip(warped * light, 0, 255).astype(np.uint8))
        (folder / f"H_1_{k}").write_text("\n".join("  ".join(f"{v:.10e}" for v in row) for row in matrix) + "\n")


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hpatches")
    for name, suffix in zip(SEQUENCES, (".ppm", ".png", ".ppm"), strict=True):
        make_sequence(root / name, suffix)
    return root


@pytest.fixture
def dataset(rendered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rendered, tmp_path / "hpatches"))


def warp(matrix: np.ndarray, point: Sequence[float]) -> tuple[float, float]:
    x, y, w = (row[0] * point[0] + row[1] * point[1] + row[2] for row in matrix.tolist())
    return x / w, y / w


def write_features(root: Path, extension: str, shift: dict[str, float], count: int = 40, noise: float = 0.0, scores: bool = True) -> None:
    """The same points in all images of a sequence, each with its own descriptor; those of images 2 to 6 moved by `shift`."""
    for sequence in read_hpatches(root):
        rng = np.random.default_rng(1)
        points = rng.uniform(20, 100, (count, 2))
        descriptors = rng.normal(size=(count, 16))
        for k, image in enumerate(sequence.images):
            matrix = np.eye(3) if k == 0 else sequence.homographies[k - 1]
            moved = np.array([warp(matrix, point) for point in points]) + [shift[sequence.kind] * (k > 0), 0]
            moved += 3 * noise * rng.normal(size=moved.shape)
            noisy = descriptors + noise * rng.normal(size=descriptors.shape)
            order = rng.permutation(count)
            arrays = {"keypoints": np.column_stack([moved, np.ones(count)]), "descriptors": noisy, "scores": np.arange(count)[::-1]}
            names = arrays if scores else ("keypoints", "descriptors")
            with open(f"{image}{extension}", "wb") as file:
                np.savez(file, **{name: arrays[name][order] for name in names})


def run(dataset: Path, output: Path, *more: str) -> int:
    return run_module("d2net", ["hpatches", "--dataset_dir", str(dataset), "--output", str(output), "--cudaid", "-1", *more])


def rows(output: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((output / "hpatches.json").read_text())["rows"]
    return found


def naive_mma(root: Path, extension: str, prefixes: tuple[str, ...], top_k: int | None = None) -> list[float]:
    """MMA at 1 to 15 px, pair by pair and point by point."""
    shares = []
    for folder in sorted(f for f in root.iterdir() if f.name.startswith(prefixes)):
        loaded = [dict(np.load(next(folder.glob(f"{k}.*{extension}")))) for k in range(1, 7)]
        for k in range(1, 6):
            (p1, d1), (p2, d2) = (best(loaded[n], top_k) for n in (0, k))
            matrix = np.loadtxt(folder / f"H_1_{k + 1}")
            errors = []
            for a in range(len(d1)):
                b = nearest(d1[a], d2)
                if nearest(d2[b], d1) == a:
                    errors.append(math.dist(warp(matrix, p1[a]), p2[b, :2]))
            shares.append([sum(e <= t for e in errors) / len(errors) if errors else 0.0 for t in range(1, 16)])
    return [sum(column) / len(shares) for column in zip(*shares, strict=True)]


def best(file: dict[str, np.ndarray], top_k: int | None) -> tuple[np.ndarray, np.ndarray]:
    order = sorted(range(len(file["scores"])), key=lambda row: -file["scores"][row])[:top_k]
    unit = [d / math.sqrt(sum(d * d)) for d in file["descriptors"]]
    return file["keypoints"][order], np.array([unit[row] for row in order])


def nearest(descriptor: np.ndarray, others: np.ndarray) -> int:
    return min(range(len(others)), key=lambda row: math.dist(descriptor, others[row]))


def test_perfect_features_and_features_two_pixels_off(dataset: Path, tmp_path: Path) -> None:
    write_features(dataset, ".perfect", {"illumination": 0, "viewpoint": 0})
    write_features(dataset, ".off", {"illumination": 2, "viewpoint": 2.001})
    assert run(dataset, tmp_path / "out", "--extracted", "perfect=.perfect", "off=.off") == 0
    perfect, off = rows(tmp_path / "out")
    assert perfect["mma"] == {kind: [1.0] * 15 for kind in ("all", "illumination", "viewpoint")}
    assert off["mma"]["viewpoint"] == [0, 0] + [1] * 13
    # float32 decides at exactly 2 px
    assert (off["mma"]["illumination"][0], off["mma"]["illumination"][2:]) == (0, [1] * 13)
    assert perfect["keypoints"] == {"mean": 40, "min": 40, "max": 40} and perfect["matches"]["all"] == 40


def test_an_error_equal_to_the_threshold_is_within_it(dataset: Path) -> None:
    for image in read_hpatches(dataset)[0].images:
        second = image.stem != "1"
        with open(f"{image}.npz", "wb") as file:
            np.savez(file, keypoints=np.array([[10.0, 20.0], [60.0, 50.0]]) + [2.0 * second, 0], descriptors=np.eye(2))
    (result,) = evaluate(FromFiles("grid", ".npz"), read_hpatches(dataset)[:1])
    assert result.name == "grid" and result.scores[0].kind == "illumination"
    np.testing.assert_array_equal(result.scores[0].within, [[0] + [1] * 14] * 5)


def test_numbers_equal_a_straightforward_computation(dataset: Path, tmp_path: Path) -> None:
    write_features(dataset, ".npz", {"illumination": 1.5, "viewpoint": 4.2}, noise=1.0)
    assert run(dataset, tmp_path / "out", "--extracted", "made=.npz", "--top_k", "10", "25") == 0
    found = rows(tmp_path / "out")
    assert [row["top_k"] for row in found] == [None, 10, 25]
    for row in found:
        for kind, prefixes in {"all": ("i_", "v_"), "illumination": ("i_",), "viewpoint": ("v_",)}.items():
            expected = naive_mma(dataset, ".npz", prefixes, row["top_k"])
            np.testing.assert_allclose(row["mma"][kind], expected, atol=1e-12)
            assert expected[0] < expected[4] < expected[-1] < 1
        assert row["keypoints"]["max"] == (row["top_k"] or 40) and 0 < row["matches"]["viewpoint"] < row["keypoints"]["max"]
    per_sequence = np.mean([sequence["mma"] for sequence in found[0]["sequences"].values()], axis=0)
    np.testing.assert_allclose(per_sequence, found[0]["mma"]["all"])


def test_a_pair_without_matches_counts_as_zero(dataset: Path) -> None:
    write_features(dataset, ".npz", {"illumination": 0, "viewpoint": 0})
    sequence = read_hpatches(dataset)[0]
    with open(f"{sequence.images[3]}.npz", "wb") as file:
        np.savez(file, keypoints=np.zeros((0, 3)), descriptors=np.zeros((0, 16)), scores=np.zeros(0))
    (result,) = evaluate(FromFiles("holes", ".npz"), [sequence])
    assert result.scores[0].matches == (40, 40, 0, 40, 40)
    assert result.summary()["mma"] == {"all": pytest.approx([0.8] * 15), "illumination": pytest.approx([0.8] * 15), "viewpoint": None}
    assert result.summary()["keypoints"]["min"] == 0 and "-" in table([result])


def test_rootsift_is_right_within_a_pixel_and_a_second_run_reads_what_the_first_kept(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The homography's pixels are OpenCV's: the images were rendered so, and SIFT's keypoints are."""
    output = tmp_path / "out"
    assert run(dataset, output, "--features", "sift", "--top_k", "100") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("sift, best 100", "illumination", "10px", "hpatches.json"))
    (all_of_them, _) = first = rows(output)
    assert all_of_them["mma"]["all"][0] > 0.75 and all_of_them["mma"]["viewpoint"][0] > 0.6
    assert all_of_them["settings"]["num_keypoints"] == 5000
    assert cv2.imread(str(output / "hpatches.png")).shape[1] == 1920
    (output / "features" / "sift" / "v_wall.h5").unlink()  # as after a kill
    extracted: list[int] = []
    extract = SiftExtractor.extract
    monkeypatch.setattr(SiftExtractor, "extract", lambda self, images: extracted.append(len(images)) or extract(self, images))
    assert run(dataset, output, "--features", "sift", "--top_k", "100") == 0
    assert sum(extracted) == 6 and rows(output) == first


def test_features_of_other_settings_are_refused(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run(dataset, output, "--features", "sift", "--max_keypoints", "50") == 0
    before = rows(output)
    capsys.readouterr()
    assert run(dataset, output, "--features", "sift", "--max_keypoints", "60") == 2
    error = capsys.readouterr().err
    assert "num_keypoints" in error and "--overwrite" in error and error.count("\n") == 1
    assert rows(output) == before
    assert run(dataset, output, "--features", "sift", "--max_keypoints", "60", "--overwrite") == 0
    assert rows(output)[0]["keypoints"]["max"] == 60


def test_a_killed_sequence_and_a_damaged_file(dataset: Path, tmp_path: Path) -> None:
    sequence = read_hpatches(dataset)[0]
    row = ExtractedHere("sift 1/2", SiftExtractor("sift", 30), tmp_path)
    expected = row.features(sequence)
    path = tmp_path / "sift_1_2" / f"{sequence.name}.h5"
    path.unlink()
    parts = path.with_suffix(".parts")
    parts.mkdir()
    (parts / ".000000.h5.12345678.tmp").write_bytes(b"half a part")
    for a, b in zip(expected, row.features(sequence), strict=True):
        np.testing.assert_array_equal(a.descriptors, b.descriptors)
        np.testing.assert_allclose(np.linalg.norm(b.descriptors, axis=1), 1, atol=1e-6)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=f"{sequence.name}.h5.*Delete it"):
        row.features(sequence)
    with pytest.raises(SettingsMismatchError, match="max_side"):
        ExtractedHere("sift 1/2", SiftExtractor("sift", 30, max_side=99), tmp_path)


def test_kept_features_of_another_data_set_are_refused(dataset: Path, tmp_path: Path) -> None:
    row = ExtractedHere("sift", SiftExtractor("sift", 30), tmp_path)
    sequence = read_hpatches(dataset)[0]
    row.features(sequence)
    image = sequence.images[4]
    cv2.imwrite(str(image), cv2.resize(cv2.imread(str(image)), (75, 60)))
    with pytest.raises(SettingsMismatchError, match=rf"{image}.*\(75, 60\).*--output"):
        row.features(sequence)


def test_images_without_keypoints_are_no_error(dataset: Path, tmp_path: Path) -> None:
    for image in read_hpatches(dataset)[0].images:
        cv2.imwrite(str(image), np.full((40, 50), 128, np.uint8))
    assert run(dataset, tmp_path, "--features", "sift", "--top_k", "20") == 0
    (everything, few) = rows(tmp_path)
    assert everything["keypoints"]["min"] == 0 and everything["sequences"]["i_dusk"] == {"matches": 0, "mma": [0] * 15}
    assert everything["mma"]["illumination"][14] == pytest.approx(everything["sequences"]["i_lamp"]["mma"][14] / 2)
    assert few["mma"]["all"][14] > 0


def test_d2net_in_several_ways_beside_each_other(dataset: Path, tmp_path: Path, model_file: Path) -> None:
    for name in SEQUENCES[1:]:
        shutil.rmtree(dataset / name)
    other = shutil.copy(model_file, tmp_path / "other.pth")
    small, output = ("--max_edge", "80"), tmp_path / "out"
    assert run(dataset, output, *small, "--features", "d2net-legacy", "d2net-ms", "--model_file", str(model_file)) == 0
    legacy, multiscale = rows(output)
    assert [row["name"] for row in (legacy, multiscale)] == ["d2net-legacy", "d2net-ms"]
    assert (legacy["settings"]["coordinates"], multiscale["settings"]["scales"]) == ("legacy", [0.5, 1.0, 2.0])
    assert legacy["settings"]["num_keypoints"] is None and legacy["keypoints"]["mean"] > 15
    assert run(dataset, tmp_path / "two", *small, "--model_file", str(model_file), str(other)) == 0
    plain, again = rows(tmp_path / "two")
    assert [row["name"] for row in (plain, again)] == ["d2net d2_random", "d2net other"]
    assert plain["mma"] == again["mma"] and plain["settings"]["coordinates"] == "corrected"
    assert plain["mma"]["all"][2] > 0.5  # the camera stands still: equal places are described alike, even by random weights


def test_large_sequences_are_left_out_unless_asked_for(dataset: Path, tmp_path: Path) -> None:
    for name in ("i_dc", "v_talent"):
        (dataset / "i_lamp").rename(dataset / name) if name == "i_dc" else shutil.copytree(dataset / "v_wall", dataset / name)
    assert {sequence.name for sequence in read_hpatches(dataset)} == {"i_dusk", "v_wall"}
    assert {sequence.name for sequence in read_hpatches(dataset, ())} == {"i_dusk", "v_wall", "i_dc", "v_talent"}
    assert len(LARGE) == 8
    images = tmp_path / "images.txt"
    assert run(dataset, tmp_path / "out", "--image_list", str(images), "--exclude", "i_dusk", "i_dc", "v_talent") == 0
    assert images.read_text().splitlines() == [str(dataset / "v_wall" / f"{k}.ppm") for k in range(1, 7)]
    assert not (tmp_path / "out").exists()


def test_the_folder_above_the_published_one_serves_too(dataset: Path, tmp_path: Path) -> None:
    dataset.rename(tmp_path / "hpatches-sequences-release")
    assert [sequence.name for sequence in read_hpatches(tmp_path)] == sorted(SEQUENCES)


def test_bad_data_sets_give_one_line(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*words: str, more: Sequence[str] = ("--features", "sift"), root: Path = dataset) -> None:
        assert run(root, tmp_path / "out", *more) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and all(word in error for word in words), error

    fails("nowhere", "does not exist", root=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails("no sequences", root=tmp_path / "empty")
    fails("left out", more=("--exclude", *SEQUENCES))
    fails("sitf", "d2net-ms", "aliked", more=("--features", "sitf"))
    fails("NAME=EXTENSION", more=("--extracted", "published"))
    fails("Two rows are named sift", more=("--features", "sift", "--extracted", "sift=.npz"))
    fails("--top_k", "0", more=("--features", "sift", "--top_k", "0"))
    fails("nowhere.pth", "does not exist", more=("--model_file", "nowhere.pth"))
    path = dataset / "v_wall" / "H_1_4"
    good = path.read_text()
    for text in ("1 0 0\n0 1 0\n", "1 0 0 0 1 0 0 0 x", "1 0 0 1 0 0 0 0 1", "nan 0 0 0 1 0 0 0 1", ""):
        path.write_text(text)
        fails(str(path))
    path.unlink()
    fails(str(path), "does not exist")
    path.write_text(good)
    image = dataset / "v_wall" / "5.ppm"
    image.write_bytes(b"P6 no image")
    fails(str(image), more=("--features", "sift"))
    image.unlink()
    fails("v_wall", "lacks image 5", "5.png")


def test_bad_feature_files_give_one_line(dataset: Path) -> None:
    sequence = read_hpatches(dataset)[0]
    path = Path(f"{sequence.images[0]}.npz")
    points, descriptors = np.zeros((3, 2)), np.eye(3)

    def refused(words: str, **arrays: Any) -> None:
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=words):
            FromFiles("bad", ".npz").features(sequence)

    refused("lacks keypoints or descriptors", keypoints=points)
    refused(r"descriptors \(N, D\).*\(3, 128\)", keypoints=np.zeros((5, 2)), descriptors=np.zeros((3, 128)))
    refused(r"scores \(2,\)", keypoints=points, descriptors=descriptors, scores=np.zeros(2))
    refused("keypoints", keypoints=np.float32(3), descriptors=descriptors)
    refused("not finite", keypoints=points * np.nan, descriptors=descriptors)
    refused("not an npz file of numbers", keypoints=np.array([None, {}]), descriptors=descriptors)
    for content in (b"", b"no zip", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not an npz file"):
            FromFiles("bad", ".npz").features(sequence)
    path.unlink()
    with pytest.raises(InputError, match="does not exist.*--image_list"):
        FromFiles("bad", ".npz").features(sequence)


def test_top_k_needs_scores(dataset: Path) -> None:
    write_features(dataset, ".npz", {"illumination": 0, "viewpoint": 0}, scores=False)
    sequences = read_hpatches(dataset)
    assert evaluate(FromFiles("plain", ".npz"), sequences)[0].summary()["mma"]["all"][0] == 1
    with pytest.raises(InputError, match="scores"):
        evaluate(FromFiles("plain", ".npz"), sequences, (10,))


@pytest.mark.parametrize("kind", ["illumination", "viewpoint"])
def test_a_plot_of_one_kind_alone(kind: str, dataset: Path, tmp_path: Path) -> None:
    write_features(dataset, ".npz", {"illumination": 1, "viewpoint": 3}, noise=0.5)
    (result,) = evaluate(FromFiles("made", ".npz"), [s for s in read_hpatches(dataset) if s.kind == kind])
    many = [Result(f"row {n}", n or None, {}, result.scores) for n in range(23)]
    assert len(table(many).splitlines()) == 25
    for results in ([result], many):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib's, where panels and legend have no room
            plot(tmp_path / "a.png", results)
        inked = (cv2.imread(str(tmp_path / "a.png")) < 250).any(axis=(0, 2)).reshape(3, 640)
        assert (inked.mean(axis=1) > 0.85).all()  # three panels of equal width
