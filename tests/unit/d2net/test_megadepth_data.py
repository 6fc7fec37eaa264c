"""Which pairs are drawn, and their crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from d2s.d2net.correspondences import warp
from d2s.d2net.megadepth_data import PairDataset, PairLimits, draw_pairs, load_crop
from d2s.d2net.scene_info import SceneInfo
from d2s.errors import FormatError, MissingFileError

from . import miniature_megadepth as mini

SCENES = ("0000", "9999")
LIMITS = PairLimits(per_scene=8)


def key(pair):
    return [(photo.image.name, photo.centre) for photo in pair]


def test_an_epoch_is_a_pure_function_of_seed_and_number(megadepth: Path) -> None:
    def draw(seed: int, epoch: int) -> list:
        return [key(pair) for pair in draw_pairs(megadepth, megadepth / "info", SCENES, LIMITS, seed, epoch)]

    first = draw(1, 1)
    assert len(first) == 8 and draw(1, 1) == first
    assert draw(1, 2) != first != draw(2, 1)
    names = [(a[0], b[0]) for a, b in first]
    assert len(set(names)) == 8  # there are 12 pairs: none comes twice


def test_pairs_keep_the_limits(megadepth: Path) -> None:
    info = SceneInfo.load(megadepth / "info" / "0000.npz")
    numbers = {Path(path).name: k for k, path in enumerate(info.image_paths.tolist()) if path}
    limits = PairLimits(per_scene=40, min_overlap=0.7, max_overlap=0.85, max_scale_ratio=1.03)
    pairs = draw_pairs(megadepth, megadepth / "info", SCENES, limits, 1, 1)
    assert 20 < len(pairs) <= 40  # fewer pairs than are wanted: they come again, with other points
    for first, second in pairs:
        a, b = numbers[first.image.name], numbers[second.image.name]
        assert 0.7 <= info.overlap_matrix[a, b] <= 0.85 and 1 <= info.scale_ratio_matrix[a, b] <= 1.03
        one, two = info.common_points(a, b)
        places = info.points3D_id_to_2D[one] - 0.5, info.points3D_id_to_2D[two] - 0.5
        (row,) = np.flatnonzero((np.abs(places[0] - first.centre) < 1e-3).all(axis=1))
        np.testing.assert_allclose(places[1][row], second.centre, atol=1e-3)
        nd = info.points3D_id_to_ndepth[one[row]], info.points3D_id_to_ndepth[two[row]]
        assert max(nd) / min(nd) <= 1.03


def test_nothing_to_draw_is_an_error(megadepth: Path) -> None:
    for scenes, limits in ((("9999",), LIMITS), (SCENES, replace(LIMITS, min_overlap=0.99))):
        with pytest.raises(MissingFileError, match="overlap of"):
            draw_pairs(megadepth, megadepth / "info", scenes, limits, 1, 1)


def test_crops_agree_with_each_other(megadepth: Path) -> None:
    pairs = draw_pairs(megadepth, megadepth / "info", SCENES, LIMITS, 1, 1)
    for one, two in (PairDataset(pairs, 96)[k] for k in range(4)):
        for sample in (one, two):
            assert sample.image.shape == (3, 96, 96) and sample.image.dtype == torch.uint8 and sample.view.depth.shape == (96, 96)
        rows, columns = torch.meshgrid(torch.arange(4, 92, 3), torch.arange(4, 92, 3), indexing="ij")
        pixels = torch.stack([columns.flatten(), rows.flatten()], dim=1).double()
        there, seen = warp(pixels, one.view, two.view)
        here, there = pixels[seen].long(), there[seen].round().long()
        assert len(here) > 300
        colours = [sample.image[:, p[:, 1], p[:, 0]].double() for sample, p in ((one, here), (two, there))]
        assert np.corrcoef(colours[0].flatten(), colours[1].flatten())[0, 1] > 0.9


def test_crops_lie_inside_around_their_centre(megadepth: Path) -> None:
    (photo, _), *_ = draw_pairs(megadepth, megadepth / "info", SCENES, LIMITS, 1, 1)
    image = cv2.imread(str(photo.image))[:, :, ::-1]
    height, width = image.shape[:2]
    for centre, corner in (
        ((70.4, 60.2), (70 - 24, 60 - 24)),
        ((-3.0, 5.0), (0, 0)),
        ((width + 9.0, height - 1.0), (width - 48, height - 48)),
    ):
        sample = load_crop(replace(photo, centre=centre), 48)
        assert sample.view.corner.tolist() == list(corner)
        x, y = corner
        np.testing.assert_array_equal(sample.image.permute(1, 2, 0).numpy(), image[y : y + 48, x : x + 48])
        with h5py.File(photo.depth) as file:
            np.testing.assert_array_equal(sample.view.depth.numpy(), file["depth"][y : y + 48, x : x + 48])


def test_small_photos_are_filled_up_without_depth(megadepth: Path) -> None:
    (photo, _), *_ = draw_pairs(megadepth, megadepth / "info", SCENES, LIMITS, 1, 1)
    height, width = cv2.imread(str(photo.image)).shape[:2]
    sample = load_crop(photo, 160)
    assert sample.view.corner.tolist() == [0, 0]
    assert (sample.view.depth[:height, :width] > 0).all()
    assert (sample.view.depth[height:] == 0).all() and (sample.view.depth[:, width:] == 0).all()
    assert (sample.image[:, height:, :] == sample.image[:, height - 1 : height, :]).all()


def test_strange_depth_is_named(megadepth: Path, tmp_path: Path) -> None:
    (photo, _), *_ = draw_pairs(megadepth, megadepth / "info", SCENES, LIMITS, 1, 1)
    shape = cv2.imread(str(photo.image)).shape[:2]
    for values, reason in ((np.full(shape, -1.0), "negative"), (np.ones((9, 9)), r"is \(9, 9\)")):
        with h5py.File(tmp_path / "d.h5", "w") as file:
            file["depth"] = values
        with pytest.raises(FormatError, match=reason):
            load_crop(replace(photo, depth=tmp_path / "d.h5"), 48)
    (tmp_path / "d.h5").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"d\.h5"):
        load_crop(replace(photo, depth=tmp_path / "d.h5"), 48)
    with pytest.raises(MissingFileError, match="none"):
        load_crop(replace(photo, depth=tmp_path / "none.h5"), 48)


def test_unknown_depth_is_zero(megadepth: Path, tmp_path: Path) -> None:
    (photo, _), *_ = draw_pairs(megadepth, megadepth / "info", SCENES, LIMITS, 1, 1)
    depth = np.ones(cv2.imread(str(photo.image)).shape[:2], np.float32)
    depth[:2], depth[2:4] = np.nan, np.inf
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["depth"] = depth
    sample = load_crop(replace(photo, depth=tmp_path / "d.h5", centre=(0.0, 0.0)), 48)
    assert (sample.view.depth[:4] == 0).all() and (sample.view.depth[4:] == 1).all()


def test_the_miniature_has_several_sizes() -> None:
    assert len({(mini.undistorted_camera(k).width, mini.undistorted_camera(k).height) for k in range(mini.WITH_DEPTH)}) == 2
