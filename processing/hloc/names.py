"""hloc's name of an image and ours: relative to different folders, or with another extension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from d2s.errors import InputError


def _same(name: str) -> str:
    return name


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _below(name: str) -> str:
    return "/".join(PurePosixPath(name).parts[1:]) or name


# How hloc's name and ours are brought to one spelling, in the order in which they are tried.
_SPELLINGS: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (_same, _same),
    (_without_suffix, _without_suffix),
    (_below, _same),  # hloc's image folder was that of the data set
    (_same, _below),
    (lambda name: _without_suffix(_below(name)), _without_suffix),
    (_without_suffix, lambda name: _without_suffix(_below(name))),
)


def hloc_names(ours: Iterable[str], theirs: Iterable[str], where: str) -> dict[str, str]:
    """Our name -> hloc's, for the images that hloc has. One spelling holds for all: the first that explains the most images.

    Raises InputError when no image is found.
    """
    ours, theirs = list(ours), list(theirs)
    best: dict[str, str] = {}
    for spell_theirs, spell_ours in _SPELLINGS:
        keys = [spell_theirs(name) for name in theirs]
        counts = Counter(keys)
        name_of = {key: name for key, name in zip(keys, theirs, strict=True) if counts[key] == 1}
        found = {name: name_of[key] for name in ours if (key := spell_ours(name)) in name_of}
        if len(found) > len(best) and len(set(found.values())) == len(found):
            best = found
    if not best:
        examples = f"theirs look like {theirs[0]}, the scene's like {ours[0]}" if theirs and ours else "one of the two has no image"
        raise InputError(f"{where} has no image of this scene: {examples}.", "Check --hloc_out_dir and --scene.")
    return best
