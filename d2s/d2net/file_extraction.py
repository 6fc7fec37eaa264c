"""D2-Net features of a list of images, one file beside each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d2s.errors import InputError, MissingFileError, unknown_choice
from d2s.features.d2net.extractor import D2NetExtractor, ScaledFeatures
from d2s.features.extraction import OnError, extract_all
from d2s.scene.atomic import atomic_path, remove_leftovers_of

log = logging.getLogger(__name__)

OUTPUT_TYPES = ("npz", "mat")


def read_image_list(path: Path) -> list[Path]:
    """One path per line, relative to the current folder; blank lines are left out. Raises InputError when there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"Image list {path} does not exist.") from None
    except UnicodeDecodeError:
        raise InputError(f"Image list {path} is not a text file in UTF-8.", "Write one path per line.") from None
    except OSError as error:
        raise InputError(f"Image list {path} cannot be read: {error.strerror}.", "Give a text file with one path per line.") from None
    images = [Path(line.strip()) for line in lines if line.strip()]
    if not images:
        raise InputError(f"Image list {path} names no image.", "Write one path per line.")
    return list(dict.fromkeys(images))


def output_path(image: Path, extension: str) -> Path:
    """Where the features of an image go: beside it, the extension after its own."""
    return image.with_name(image.name + extension)


def extract_files(
    images: Sequence[Path],
    extractor: D2NetExtractor,
    extension: str,
    output_type: str,
    skip_existing: bool,
    batch: int | None,
    on_error: OnError,
) -> int:
    """Write the features of every image; gives the number of files written. A file is there whole or not at all."""
    if output_type not in OUTPUT_TYPES:
        raise unknown_choice("output type", output_type, OUTPUT_TYPES)
    if not extension or "/" in extension:
        raise InputError(f"The output extension must be the end of a file name, not {extension!r}.", "For example: .d2-net")
    todo = [image for image in images if not (skip_existing and output_path(image, extension).is_file())]
    if len(todo) < len(images):
        log.info("%d of %d images have their features", len(images) - len(todo), len(images))
    written = 0
    for name, features in extract_all(extractor, [(str(image), image) for image in todo], batch_size=batch, on_error=on_error):
        assert isinstance(features, ScaledFeatures)
        write_features(output_path(Path(name), extension), features, output_type)
        if not len(features):
            log.warning("No keypoints in %s, %d x %d pixels: its file holds empty arrays", name, *features.image_size)
        written += 1
    return written


def write_features(path: Path, features: ScaledFeatures, output_type: str) -> None:
    """`keypoints` (N, 3) float32 x, y, scale (top-left pixel centre at (0, 0)), `scores` (N,), `descriptors` (N, 512), as npz or mat."""
    remove_leftovers_of(path)
    arrays = {"keypoints": features.with_scales(), "scores": features.scores, "descriptors": features.descriptors}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if output_type == "npz":
            np.savez(file, **arrays)  # type: ignore[arg-type]
        else:
            from scipy.io import savemat

            savemat(file, arrays)
