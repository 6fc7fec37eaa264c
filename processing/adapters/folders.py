"""Finding a scene's folder and the images in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from d2s.errors import FormatError, InputError, MissingFileError
from processing.adapters.base import AdapterOptions

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")


def scene_folder(options: AdapterOptions, dataset: str, looks_right: Callable[[Path], bool], expected: str) -> Path:
    """The folder of the scene: DATASET_DIR/DATASET/SCENE, DATASET_DIR/SCENE, or DATASET_DIR itself, which it is where `options` say so.

    The first that `looks_right` is taken; `expected` says in the error what it should hold. Raises MissingFileError or InputError.
    """
    if options.dataset_dir is None:
        raise InputError(f"--dataset {dataset} needs --dataset_dir.", f"Give the folder that holds {expected}.")
    root = Path(options.dataset_dir)
    if not root.is_dir():
        raise MissingFileError(f"--dataset_dir {root} is not a folder.", f"Give the folder that holds {expected}.")
    named = options.scene != "" and not options.is_scene
    candidates = [root / dataset / options.scene, root / options.scene, root] if named else [root]
    for folder in candidates:
        if folder.is_dir() and looks_right(folder):
            return folder
    raise _no_scene(candidates, options.scene if named else "", expected)


def _no_scene(candidates: list[Path], scene: str, expected: str) -> InputError:
    named = [folder for folder in candidates[:-1] if folder.is_dir()] if scene else candidates
    if not named:
        tried = " and ".join(str(folder) for folder in candidates[:-1])
        inside = sorted(path.name for path in candidates[-1].iterdir() if path.is_dir() and not path.name.startswith("."))
        folders = [place for folder in candidates[:-1] for place in (folder, *folder.parents) if candidates[-1] in place.parents]
        packed = [path for path in (place.with_name(f"{place.name}.zip") for place in folders if place.name) if path.is_file()]
        if packed:
            return MissingFileError(
                f"Scene {scene!r} is still packed in {packed[0]}.", f"Unpack it: unzip {packed[0]} -d {packed[0].parent}"
            )
        return MissingFileError(f"Scene {scene!r} was not found: tried {tried}.", f"Folders there: {', '.join(inside[:10]) or 'none'}.")
    folder = named[0]
    if not any(folder.iterdir()):
        return InputError(f"{folder} is empty.", f"It must hold {expected}.")
    return InputError(f"{folder} does not hold {expected}.", "Name the right folder with --dataset_dir.")


def find_files(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Names, relative to `folder`, of all files with the given suffixes (any case), sorted; hidden files and folders are skipped."""
    return sorted(name for name in _walk(folder) if name.lower().endswith(suffixes))


def _walk(folder: Path) -> Iterator[str]:
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # a link that leads back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in files:
            if not name.startswith("."):
                yield (Path(parent) / name).relative_to(folder).as_posix()


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image whose header was read. Raises MissingFileError or FormatError naming the file."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise MissingFileError(f"Image {path} does not exist.") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError(f"{path} is not a readable image ({error}).", "Replace or remove it.") from None


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the stored pixels, from the file's header. Raises MissingFileError or FormatError naming the file."""
    with open_image(path) as image:
        return image.size
