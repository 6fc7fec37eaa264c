"""What a user has given: photos, a COLMAP model, a nerfstudio capture or a video, told by its content."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d2s.errors import FormatError, InputError, MissingFileError
from processing.adapters.colmap_folders import model_folders
from processing.adapters.folders import IMAGE_SUFFIXES, find_files, image_size
from processing.adapters.nerfstudio import TRANSFORMS
from processing.adapters.photos import HEIC_REMEDY, HEIC_SUFFIXES

KINDS = ("photos", "colmap", "nerfstudio", "video")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mts", ".m2ts", ".3gp", ".wmv")
EXPECTED = "a folder of photos, a folder with images and a COLMAP model, a nerfstudio capture (transforms.json), or a video"
MIN_PHOTOS = 5
"""Photos without poses below which there is no use in trying: three must be placed, and one is held out."""


@dataclass(frozen=True)
class Given:
    """A kind of KINDS, and the folder or the video file."""

    kind: str
    path: Path

    @property
    def poses_known(self) -> bool:
        """Whether poses come with the images."""
        return self.kind in ("colmap", "nerfstudio")


def find_kind(path: Path, kind: str = "auto") -> Given:
    """What lies at `path`; `kind` overrides what the content says. Raises InputError for what is none of KINDS."""
    if not path.exists():
        raise MissingFileError(f"{path} does not exist.", f"Give {EXPECTED}.")
    if path.is_file():
        return _file(path, kind)
    if not any(path.iterdir()):
        raise InputError(f"{path} is empty.", f"It must hold photos; else give {EXPECTED}.")
    if kind == "auto":
        kind = _content(path)
    if kind == "video":
        return Given(kind, _only_video(path))
    if kind == "photos":
        _require_photos(path)
    return Given(kind, path)


def _file(path: Path, kind: str) -> Given:
    if kind != "video" and path.suffix.lower() in IMAGE_SUFFIXES + HEIC_SUFFIXES:
        raise _one_photo(path)
    if path.name == TRANSFORMS and kind in ("auto", "nerfstudio"):
        return Given("nerfstudio", path.parent)
    if kind not in ("auto", "video"):
        raise InputError(f"{path} is a file, but --kind {kind} is a folder.", f"Give {EXPECTED}.")
    if kind == "auto" and path.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(f"{path} is neither a folder nor named like a video.", f"Give {EXPECTED}; --kind video tries it as a video.")
    return Given("video", path)


def _one_photo(path: Path) -> InputError:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        try:
            image_size(path)
        except FormatError:
            return InputError(f"{path} is named like a photo, but is none.", "If it is a video: --kind video.")
    return InputError(f"{path} is one photo; a map needs at least {MIN_PHOTOS}, better 30 to 130.", "Give the folder of all photos.")


def _content(folder: Path) -> str:
    """The richest that the folder holds: known poses are worth more than photos alone."""
    if (folder / TRANSFORMS).is_file():
        return "nerfstudio"
    if model_folders(folder):
        return "colmap"
    return "video" if _videos(folder) and len(find_files(folder)) < MIN_PHOTOS else "photos"


def _videos(folder: Path) -> list[str]:
    return find_files(folder, VIDEO_SUFFIXES)


def _only_video(folder: Path) -> Path:
    videos = _videos(folder)
    if len(videos) != 1:
        found = ", ".join(videos[:5]) or "none"
        raise InputError(f"{folder} must hold one video, but holds: {found}.", "Give one video file; several places need several maps.")
    return folder / videos[0]


def _require_photos(folder: Path) -> None:
    photos, unread = find_files(folder), find_files(folder, HEIC_SUFFIXES)
    if len(photos) >= MIN_PHOTOS:
        return
    if unread:
        raise InputError(f"{folder} holds {len(unread)} HEIC photos, which are not read, and {len(photos)} others.", HEIC_REMEDY)
    if not photos:
        raise InputError(f"{folder} holds no photos ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)}).", f"Give {EXPECTED}.")
    count = "only one photo" if len(photos) == 1 else f"only {len(photos)} photos"
    raise InputError(f"{folder} holds {count}; a map needs at least {MIN_PHOTOS}.", "Take 30 to 130, with two thirds of overlap.")
