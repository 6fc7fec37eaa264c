"""What training needs to know of a MegaDepth scene, in one npz file: photos, cameras, which pairs overlap, and their common points.

The keys are those of the published preparation, which other programs read, too. Published files hold pickled objects (None for photos
without depth, a dictionary of points per photo); ours hold arrays alone: empty names and NaN for photos without depth, and the points of
all photos one after the other, with two keys more, `points3D_ids` and `points3D_offsets`. Both are read here.
"""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError, MissingFileError
from d2s.scene.atomic import atomic_path

Array = NDArray[Any]


@dataclass(frozen=True)
class SceneInfo:
    """n photos; those without depth have empty paths, NaN cameras, and -1 in all pairs.

    image_paths, depth_paths (n,): relative to the data set's root. intrinsics (n, 3, 3), poses (n, 4, 4) cam_from_world: COLMAP's pixels,
    units of the scene. overlap_matrix (n, n): share of the first photo's points that the second sees. scale_ratio_matrix (n, n): the least
    ratio of their resolutions at a common point, at least 1. angles (n, n): between optical axes, in degrees. n_points3D (n,).

    Points of photo k are rows points3D_offsets[k] to points3D_offsets[k + 1], in the order of their ids: points3D_ids,
    points3D_id_to_2D (m, 2) x, y in COLMAP's pixels, points3D_id_to_ndepth (m,) depth over focal length.
    """

    image_paths: Array
    depth_paths: Array
    intrinsics: Array
    poses: Array
    overlap_matrix: Array
    scale_ratio_matrix: Array
    angles: Array
    n_points3D: Array  # noqa: N815  # published name
    points3D_ids: Array  # noqa: N815
    points3D_offsets: Array  # noqa: N815
    points3D_id_to_2D: Array  # noqa: N815
    points3D_id_to_ndepth: Array  # noqa: N815

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> SceneInfo:
        """Read a file of ours or a published one. Raises FormatError when it is neither."""
        try:
            arrays = _read_arrays(path)
            if "points3D_ids" not in arrays:
                arrays.update(_flat_points(arrays))
            arrays["image_paths"], arrays["depth_paths"] = (_names(arrays[key]) for key in ("image_paths", "depth_paths"))
            arrays["intrinsics"], arrays["poses"] = _matrices(arrays["intrinsics"], 3), _matrices(arrays["poses"], 4)
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})
        except FileNotFoundError:
            raise MissingFileError(f"{path} does not exist.", "Make it with d2s d2net prepare.") from None
        except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise FormatError(f"{path} is no scene of MegaDepth that can be read ({reason}).", "Make it with d2s d2net prepare.") from None

    def points_of(self, photo: int) -> slice:
        """Rows of the points of a photo."""
        return slice(int(self.points3D_offsets[photo]), int(self.points3D_offsets[photo + 1]))

    def common_points(self, first: int, second: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows (m,) of the points that both photos see, once as the first one's and once as the second one's."""
        rows = self.points_of(first), self.points_of(second)
        _, one, two = np.intersect1d(self.points3D_ids[rows[0]], self.points3D_ids[rows[1]], assume_unique=True, return_indices=True)
        return one + rows[0].start, two + rows[1].start


def _read_arrays(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as archive:
        arrays = {}
        for name in archive.namelist():
            with archive.open(name) as file:
                arrays[name.removesuffix(".npy")] = _read_array(file)
        return arrays


def _read_array(file: IO[bytes]) -> Array:
    """An array of an npy stream; one of objects is unpickled, of harmless types alone."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read_header(file)
    if kind.hasobject:
        return np.asarray(_DataUnpickler(file).load())
    values = np.frombuffer(file.read(), dtype=kind)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


class _DataUnpickler(pickle.Unpickler):
    """Unpickles arrays, numbers, text, lists and dictionaries. It knows no other name, so that nothing in a file can be executed."""

    ALLOWED = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")]
        + [(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")]
    )

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for. Raises UnpicklingError for one that is not needed for data."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it wants {module}.{name}, which is no data")
        core = "_core" if hasattr(np, "_core") else "core"
        return super().find_class(module.replace("._core.", f".{core}.").replace(".core.", f".{core}."), name)


def _flat_points(arrays: dict[str, Array]) -> dict[str, Array]:
    """Our four arrays of the published two: dictionaries by point id, one per photo."""
    places, depths = arrays["points3D_id_to_2D"], arrays["points3D_id_to_ndepth"]
    ids = [np.array(sorted(place or {}), np.int64) for place in places]
    xy = [[place[key] for key in keys.tolist()] for place, keys in zip(places, ids, strict=True)]
    nd = [[depth[key] for key in keys.tolist()] for depth, keys in zip(depths, ids, strict=True)]
    return {
        "points3D_ids": np.concatenate([*ids, np.zeros(0, np.int64)]),
        "points3D_offsets": np.cumsum([0, *map(len, ids)]),
        "points3D_id_to_2D": np.array([row for rows in xy for row in rows], np.float32).reshape(-1, 2),
        "points3D_id_to_ndepth": np.array([value for row in nd for value in row], np.float32),
    }


def _names(values: Array) -> Array:
    return np.array(["" if value is None else str(value) for value in values.tolist()], dtype=np.str_)


def _matrices(values: Array, size: int) -> Array:
    """(n, size, size) float64, NaN for None."""
    unknown = np.full((size, size), np.nan)
    return np.array([unknown if value is None else value for value in values], np.float64).reshape(-1, size, size)
