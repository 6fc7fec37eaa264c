"""HPatches (Balntas et al. 2017), the sequences of whole images: six photos of a plane each, and the homographies between them.

A folder per sequence: `i_*` the light changes, `v_*` the viewpoint; images `1` to `6` as ppm, png or jpg, and text files `H_1_2` to `H_1_6`
of 3x3 numbers that take pixels of image 1 to pixels of image k. Pixels: centre of the top-left pixel at (0, 0), x to the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d2s.errors import FormatError, InputError, MissingFileError

KINDS = {"i_": "illumination", "v_": "viewpoint"}
IMAGES = tuple(range(1, 7))
SUFFIXES = (".ppm", ".png", ".jpg", ".jpeg")

# Left out in D2-Net's paper and those after it: not every method can process images of this size.
LARGE = (
    "i_contruction",
    "i_crownnight",
    "i_dc",
    "i_pencils",
    "i_whitebuilding",
    "v_artisans",
    "v_astronautis",
    "v_talent",
)
RELEASE = "hpatches-sequences-release"
"""The folder in the published archive."""


@dataclass(frozen=True)
class PlanarSequence:
    """Six images; `homographies` (5, 3, 3) float64 take pixels of the first to pixels of each other one."""

    name: str
    images: tuple[Path, ...]
    homographies: NDArray[np.float64]

    @property
    def kind(self) -> str:
        """What changes: illumination or viewpoint."""
        return KINDS[self.name[:2]]


def read_hpatches(root: Path, exclude: Sequence[str] = LARGE) -> list[PlanarSequence]:
    """All sequences under `root` by name, without those in `exclude` (names that are not there are no error).

    Raises InputError naming what is missing or damaged.
    """
    if not root.is_dir():
        raise MissingFileError(f"HPatches folder {root} does not exist.", "Give the folder that holds i_* and v_* with --dataset_dir.")
    folders = _sequence_folders(root) or _sequence_folders(root / RELEASE)
    if not folders:
        raise InputError(f"{root} holds no sequences of HPatches.", "It must have folders i_* and v_* (HPatches' full image sequences).")
    kept = [folder for folder in folders if folder.name not in exclude]
    if not kept:
        raise InputError(f"All {len(folders)} sequences of {root} are left out.", "Give fewer names with --exclude, or none.")
    return [_read_sequence(folder) for folder in kept]


def _sequence_folders(root: Path) -> list[Path]:
    return sorted(folder for prefix in KINDS for folder in root.glob(f"{prefix}*") if folder.is_dir())


def _read_sequence(folder: Path) -> PlanarSequence:
    images = tuple(_image(folder, number) for number in IMAGES)
    return PlanarSequence(folder.name, images, np.stack([_homography(folder / f"H_1_{number}") for number in IMAGES[1:]]))


def _image(folder: Path, number: int) -> Path:
    for suffix in SUFFIXES:
        if (path := folder / f"{number}{suffix}").is_file():
            return path
    names = ", ".join(f"{number}{suffix}" for suffix in SUFFIXES)
    raise MissingFileError(f"HPatches sequence {folder} lacks image {number}.", f"Expected one of {names}; or leave it out with --exclude.")


def _homography(path: Path) -> NDArray[np.float64]:
    remedy = "Replace it, or leave the sequence out with --exclude."
    try:
        values = [float(word) for word in path.read_text(encoding="utf-8").split()]
    except FileNotFoundError:
        raise MissingFileError(f"Homography {path} does not exist.", remedy) from None
    except (ValueError, OSError) as error:  # UnicodeDecodeError is a ValueError
        raise FormatError(f"Homography {path} cannot be read ({error}).", remedy) from None
    if len(values) != 9 or not np.isfinite(values).all() or np.linalg.matrix_rank(np.reshape(values, (3, 3)), tol=1e-12) < 3:
        raise FormatError(f"Homography {path} must be nine numbers that form an invertible matrix; it has {len(values)}.", remedy)
    return np.reshape(values, (3, 3))


def write_image_list(path: Path, sequences: Sequence[PlanarSequence]) -> int:
    """Write the paths of all images, one per line; gives their number. Other programs extract features from such a list."""
    images = [str(image) for sequence in sequences for image in sequence.images]
    path.write_text("\n".join(images) + "\n", encoding="utf-8")
    return len(images)
