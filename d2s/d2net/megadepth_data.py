"""Pairs of crops of MegaDepth to train D2-Net on. What an epoch draws is a pure function of the seed and its number."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from d2s.d2net.correspondences import View
from d2s.d2net.scene_info import SceneInfo
from d2s.errors import D2SError, FormatError, MissingFileError
from d2s.features.images import read_image
from d2s.geometry.camera import pixels_from_colmap

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairLimits:
    """Which pairs are drawn: those whose overlap (share of the first photo's points) and scale ratio lie within the limits."""

    per_scene: int = 100
    min_overlap: float = 0.5
    max_overlap: float = 1.0
    max_scale_ratio: float = float("inf")


@dataclass(frozen=True)
class Photo:
    """One side of a pair: files, intrinsics (3, 3) in COLMAP's pixels, cam_from_world (4, 4), and the pixel that the crop is centred on."""

    image: Path
    depth: Path
    intrinsics: NDArray[np.float64]
    cam_from_world: NDArray[np.float64]
    centre: tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """One side of a pair, cropped: image (3, S, S) uint8 RGB, and where it looks."""

    image: Tensor
    view: View


Pair = tuple[Photo, Photo]
SamplePair = tuple[Sample, Sample]


def draw_pairs(root: Path, infos: Path, scenes: Iterable[str], limits: PairLimits, seed: int, epoch: int) -> list[Pair]:
    """The pairs of an epoch in their order; scenes without file are left out. Raises MissingFileError when that leaves nothing.

    One scene is read at a time. Pairs of a scene come once, where it has as many as are wanted.
    """
    pairs: list[Pair] = []
    for scene in scenes:
        path = infos / f"{scene}.npz"
        if path.is_file():
            generator = np.random.default_rng([seed, epoch, zlib.crc32(scene.encode())])
            pairs += _draw_from_scene(root, SceneInfo.load(path), limits, generator)
    if not pairs:
        raise MissingFileError(
            f"{infos} has no pair of photos to draw: no file of these scenes, or none with an overlap of {limits.min_overlap:g} to "
            f"{limits.max_overlap:g} and a scale ratio up to {limits.max_scale_ratio:g}.",
            "Make the files with d2s d2net prepare, name other scenes, or widen the limits.",
        )
    order = np.random.default_rng([seed, epoch]).permutation(len(pairs))
    return [pairs[k] for k in order]


def _draw_from_scene(root: Path, info: SceneInfo, limits: PairLimits, generator: np.random.Generator) -> list[Pair]:
    overlap, ratio = info.overlap_matrix, info.scale_ratio_matrix
    eligible = np.argwhere(
        (overlap >= limits.min_overlap) & (overlap <= limits.max_overlap) & (ratio >= 1) & (ratio <= limits.max_scale_ratio)
    )
    if not len(eligible):
        return []
    rows = generator.choice(len(eligible), limits.per_scene, replace=len(eligible) < limits.per_scene)
    drawn = (_pair(root, info, int(first), int(second), limits, generator) for first, second in eligible[rows])
    return [pair for pair in drawn if pair is not None]


def _pair(root: Path, info: SceneInfo, first: int, second: int, limits: PairLimits, generator: np.random.Generator) -> Pair | None:
    """Two photos, and one of their common points that is seen at a ratio within the limit; None where there is none."""
    one, two = info.common_points(first, second)
    depths = info.points3D_id_to_ndepth[one], info.points3D_id_to_ndepth[two]
    in_front = (depths[0] > 0) & (depths[1] > 0)
    one, two, near, far = one[in_front], two[in_front], np.minimum(*depths)[in_front], np.maximum(*depths)[in_front]
    allowed = np.flatnonzero(far <= near * limits.max_scale_ratio)
    if not len(allowed):
        return None
    row = generator.choice(allowed)
    return _photo(root, info, first, int(one[row])), _photo(root, info, second, int(two[row]))


def _photo(root: Path, info: SceneInfo, number: int, point: int) -> Photo:
    x, y = pixels_from_colmap(info.points3D_id_to_2D[point].astype(np.float64)).tolist()
    paths = root / str(info.image_paths[number]), root / str(info.depth_paths[number])
    return Photo(*paths, info.intrinsics[number], info.poses[number], (x, y))


@dataclass(frozen=True)
class PairDataset(Dataset[SamplePair | D2SError]):
    """The pairs of an epoch, cropped to squares of `crop_size` pixels; the same item is always the same.

    A pair that cannot be read gives its error as item: raised in a loading process, it would lose its one line.
    """

    pairs: Sequence[Pair]
    crop_size: int = 256
    first: int = field(default=0)
    """Items before this one have been trained on already."""

    def __len__(self) -> int:
        return len(self.pairs) - self.first

    def __getitem__(self, number: int) -> SamplePair | D2SError:
        one, two = self.pairs[self.first + number]
        try:
            return load_crop(one, self.crop_size), load_crop(two, self.crop_size)
        except D2SError as error:
            return error


def readable(items: Iterable[SamplePair | D2SError]) -> list[SamplePair]:
    """The pairs of a batch; damaged files are named and left out. Raises MissingFileError where a file is not there at all."""
    pairs = []
    for item in items:
        if isinstance(item, MissingFileError):
            raise item
        if isinstance(item, D2SError):
            log.warning("Left out: %s", item.problem)
        else:
            pairs.append(item)
    return pairs


def load_crop(photo: Photo, size: int) -> Sample:
    """The square around the photo's centre, moved to lie inside; beyond the edges of a smaller photo it repeats them, without depth."""
    image = read_image(photo.image)
    depth_shape = _depth_shape(photo.depth)
    if depth_shape != image.shape[:2]:
        raise FormatError(
            f"{photo.depth} is {depth_shape}, its photo {image.shape[:2]}.", "Undistort and prepare the scene again, with these files."
        )
    x, y = (_corner(centre, size, side) for centre, side in zip(photo.centre, image.shape[1::-1], strict=True))
    part, depth = image[y : y + size, x : x + size], _read_depth(photo.depth, x, y, size)
    missing = ((0, size - part.shape[0]), (0, size - part.shape[1]))
    crop = torch.from_numpy(np.pad(part, (*missing, (0, 0)), mode="edge").transpose(2, 0, 1).copy())
    arrays = (np.pad(depth, missing), photo.intrinsics, photo.cam_from_world, np.array([x, y], np.float64))
    return Sample(crop, View(*(torch.from_numpy(array) for array in arrays)))


def _corner(centre: float, size: int, side: int) -> int:
    """First pixel of a crop along one side of a photo."""
    return max(0, min(round(centre) - size // 2, side - size))


def _depth_shape(path: Path) -> tuple[int, ...]:
    with _depth_file(path) as file:
        return tuple(file["depth"].shape)


def _depth_file(path: Path) -> h5py.File:
    if not path.is_file():
        raise MissingFileError(f"Depth map {path} does not exist.", "Give --dataset_path the folder that the scenes were prepared in.")
    try:
        return h5py.File(path)
    except OSError:
        raise FormatError(f"{path} is no depth map that can be read.", "Unpack it again.") from None


def _read_depth(path: Path, x: int, y: int, size: int) -> NDArray[np.float32]:
    """Part of a depth map (h, w), 0 where the depth is not known."""
    with _depth_file(path) as file:
        depth = np.asarray(file["depth"][y : y + size, x : x + size], dtype=np.float32)
    if (depth < 0).any():
        raise FormatError(f"{path} has negative values: orders of depth, no depth.", "Prepare the scene with the default --min_depth_kb.")
    return np.nan_to_num(depth, nan=0.0, posinf=0.0)
