"""Which image is used for what: image lists, their names matched with what there is, and the split when there are no lists."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from d2s.errors import FormatError, InputError, MissingFileError
from d2s.geometry.camera import CAMERA_MODELS
from d2s.scene.manifest import SPLITS
from processing.adapters.base import AdapterOptions

logger = logging.getLogger(__name__)

DEFAULT_TEST_EVERY = 8


@dataclass(frozen=True)
class ImageList:
    """Names of images as somebody wrote them down. `lines` (one per name, may be empty) are for error messages."""

    source: str
    names: tuple[str, ...]
    lines: tuple[int, ...] = ()

    def where(self, index: int) -> str:
        """`file:line` of a name, as far as known."""
        return f"{self.source}:{self.lines[index]}" if self.lines else self.source


def read_list(path: Path) -> ImageList:
    """Read one image name per line; blank lines and `#` comments are skipped, hloc's `name MODEL W H …` gives the name.

    Raises MissingFileError, or FormatError when the file is not text or names nothing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingFileError(f"Image list {path} does not exist.", "Give a text file with one image name per line.") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise FormatError(f"Image list {path} is not a text file.", "Give a text file with one image name per line.") from None
    entries = [(_name_in(line), number) for number, line in enumerate(text.splitlines(), start=1) if _is_entry(line)]
    if not entries:
        raise FormatError(f"Image list {path} names no image.", "Give a text file with one image name per line.")
    names, lines = zip(*entries, strict=True)
    return ImageList(str(path), names, lines)


def own_lists(folder: Path) -> dict[str, ImageList]:
    """`list_train.txt`, `list_val.txt` and `list_test.txt` of a scene's folder, as far as they exist."""
    paths = {split: folder / f"list_{split}.txt" for split in SPLITS}
    return {split: read_list(path) for split, path in paths.items() if path.is_file()}


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _name_in(line: str) -> str:
    fields = line.split()
    name = fields[0] if len(fields) > 1 and fields[1] in CAMERA_MODELS else line.strip()
    return normal_name(name)


def normal_name(name: str) -> str:
    """A name with forward slashes and without a leading `./`."""
    return str(PurePosixPath(name.replace("\\", "/")))


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name


# How a list may spell its names, in the order in which the spellings are tried. A spelling counts only when it explains the whole list.
_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("", lambda name: name),
    ("with another extension", _without_suffix),
    ("without the folder", lambda name: PurePosixPath(name).name),
    ("without the folder and with another extension", lambda name: PurePosixPath(name).stem),
)


def match_names(listed: ImageList, known: Iterable[str]) -> list[str]:
    """The known image for every listed name, in the list's order.

    Exact names first. When they do not explain the whole list, names that differ in the extension or the folder are accepted if that
    makes every entry point at one image of its own (a log line says so). Raises InputError naming the first unknown entries.
    """
    known = tuple(known)
    for description, spell in _SPELLINGS:
        found = _match_spelled(listed.names, known, spell)
        if found is not None:
            if description:
                logger.info("%s names images %s: %s is taken as %s.", listed.source, description, listed.names[0], found[0])
            return found
    available = set(known)
    raise _unknown_names(listed, [index for index, name in enumerate(listed.names) if name not in available], known)


def _match_spelled(names: Sequence[str], known: Sequence[str], spell: Callable[[str], str]) -> list[str] | None:
    keys = [spell(name) for name in known]
    counts = Counter(keys)
    image_of = {key: name for key, name in zip(keys, known, strict=True) if counts[key] == 1}
    found = [image_of.get(spell(name)) for name in names]
    matched = [name for name in found if name is not None]
    same_entry = len(set(matched)) == len(set(names))
    return matched if len(matched) == len(names) and same_entry else None


def find_entries(listed: ImageList, known: Iterable[str]) -> dict[str, int]:
    """Known image -> index of its entry in a table of poses that may lack images and may hold others. Empty when nothing matches."""
    for _, spell in _SPELLINGS[:2]:
        index_of = {spell(name): index for index, name in enumerate(listed.names)}
        found = {name: index_of[spell(name)] for name in known if spell(name) in index_of}
        if found:
            return found
    return {}


def _unknown_names(listed: ImageList, indices: Sequence[int], known: Sequence[str]) -> InputError:
    first = ", ".join(f"{listed.names[i]} ({listed.where(i)})" for i in indices[:3])
    more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
    example = f" The scene's names look like {known[0]}." if known else ""
    return InputError(f"{listed.source} names unknown images: {first}{more}.", f"Correct the list.{example}")


def assign_splits(
    usable: Sequence[str], known: Iterable[str], options: AdapterOptions, own: Mapping[str, ImageList] | None = None
) -> dict[str, str]:
    """What each usable image is for: name -> "train", "val" or "test"; an image that no list wants is left out.

    `own` are the data set's lists per split; `--list_train/val/test` replace them. A list may name any of `known`, which also holds images
    that cannot be used. When only one of train and test is listed, every other image belongs to the other one. When neither is, every
    8th of the remaining images (in the order of their names, beginning with the first) is a query.
    """
    given = {split: read_list(path) for split in SPLITS if (path := getattr(options, f"list_{split}")) is not None}
    known = tuple(known)
    listed = _listed_splits({s: entry for s, entry in (own or {}).items() if s not in given}, known)
    listed.update(_listed_splits(given, known))
    named = {*(own or {}), *given}
    rest = sorted(name for name in usable if name not in listed)
    splits = {name: listed[name] for name in usable if name in listed}
    if "train" in named and "test" in named:
        return splits
    if "train" in named or "test" in named:
        other = "test" if "train" in named else "train"
        return splits | dict.fromkeys(rest, other)
    return splits | every_nth(rest, _test_every(options))


def _listed_splits(lists: Mapping[str, ImageList], known: Sequence[str]) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, entries in lists.items():
        for index, name in enumerate(match_names(entries, known)):
            if splits.setdefault(name, split) != split:
                other = lists[splits[name]].source
                raise InputError(f"{name} is named by two lists: {other} and {entries.where(index)}.", "Name it in one of them.")
    return splits


def every_nth(names: Sequence[str], every: int = DEFAULT_TEST_EVERY) -> dict[str, str]:
    """The split without lists: names 0, N, 2N, … are queries, the others are mapped."""
    return {name: "train" if index % every else "test" for index, name in enumerate(names)}


def _test_every(options: AdapterOptions) -> int:
    every = options.extra.get("test_every", DEFAULT_TEST_EVERY)
    if not isinstance(every, int) or every < 2:
        raise InputError(f"test_every is {every!r}.", "Give a whole number of at least 2: every N-th image is then a query.")
    return every
