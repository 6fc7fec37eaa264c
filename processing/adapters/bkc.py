"""BKC Ritsumeikan (Bui et al., RA-L 2024): a COLMAP model per scene, and lists of test sequences."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from processing.adapters.assemble import assemble, refuse_gt
from processing.adapters.base import AdapterOptions, DroppedImage, SceneSource
from processing.adapters.folders import scene_folder
from processing.adapters.lists import ImageList, match_names, read_list
from processing.adapters.query_cameras import listed_but_missing, read_query_cameras, with_cameras
from processing.adapters.sfm_layout import ModelFrames, find_model, read_frames

logger = logging.getLogger(__name__)

FULL_MODEL = "sfm_sift_full"
TEST_LISTS = ("test_seq4.txt", "test_seq5.txt", "list_test.txt")
"""The first that exists names the queries."""
QUERY_LISTS = ("seq4_query_list_with_intrinsics.txt", "query_list_with_intrinsics.txt")
EXPECTED = "a COLMAP model (images.bin) and a test list such as test_seq4.txt"


def load(options: AdapterOptions) -> SceneSource:
    """A scene of BKC. Units are metres, as published.

    Queries are those of test_seq4.txt, else test_seq5.txt, or `--list_test`; images of test_all.txt and of the other test lists are neither
    queries nor mapped. Raises InputError and its kind for whatever is wrong with the data.
    """
    refuse_gt(options, "BKC")
    folders = list(_scene_folders(options))
    model = find_model(place for folder in folders for place in (folder / FULL_MODEL, folder, folder / "sparse" / "0"))
    if model is None:
        scene_folder(options, "BKC", lambda _: False, EXPECTED)  # raises, saying what is there instead
    assert model is not None
    homes = list(dict.fromkeys([model, model.parent, *folders] if model.name == FULL_MODEL else [model, *folders]))
    found = read_frames(model, [place for home in homes for place in (home, home / "images")])
    found = _with_query_cameras(found, homes, options)
    chosen = options.list_test or next((home / name for name in TEST_LISTS for home in homes if (home / name).is_file()), None)
    if chosen is None and options.list_train is None:
        logger.warning("%s has no %s: the split is ours, not the published one.", model, " or ".join(TEST_LISTS))
    lists = {} if chosen is None or options.list_test is not None else found.lists({"test": chosen})
    found = replace(found, dropped=(*found.dropped, *listed_but_missing(found, lists.values())))
    found = _without_other_tests(found, homes, chosen)
    return assemble(
        "BKC",
        options.scene or Path(str(options.dataset_dir)).resolve().name,
        found.image_dir,
        found.cameras,
        found.frames,
        options,
        dropped=found.dropped,
        own_lists=lists,
        provenance={
            "format": "BKC",
            "poses": "COLMAP model",
            "units": "metres, as published",
            "queries": chosen.name if chosen else "ours",
        },
    )


def _scene_folders(options: AdapterOptions) -> Iterator[Path]:
    """Folders that may belong to the scene, in the layouts of the published code's two branches."""
    if options.dataset_dir is None:
        return
    root = Path(options.dataset_dir)
    if options.scene:
        for base in (root / "BKC", root / "gt_3Dmodels" / "BKC", root / "imgs_datasets" / "BKC", root):
            yield base / options.scene
    if not options.scene or root.resolve().name == options.scene:
        yield root


def _with_query_cameras(found: ModelFrames, homes: list[Path], options: AdapterOptions) -> ModelFrames:
    listed = options.list_test or next((home / name for name in QUERY_LISTS for home in homes if (home / name).is_file()), None)
    return with_cameras(found, read_query_cameras(listed)) if listed is not None and listed.is_file() else found


def _without_other_tests(found: ModelFrames, homes: list[Path], chosen: Path | None) -> ModelFrames:
    """Leave out the images of test lists that are not evaluated: they were held out of the published maps, too."""
    if chosen is None:
        return found
    queries = set(_names(found, chosen))
    held_out: dict[str, str] = {}
    for home in homes:
        for path in sorted(home.glob("test_*.txt")):
            if path.name != chosen.name:
                listed = found.lists({"test": path})["test"]
                held_out |= {name: path.name for name in listed.names if name not in queries}
    dropped = [DroppedImage(f.name, f"{held_out[f.name]} holds it out of the map") for f in found.frames if f.name in held_out]
    kept = tuple(frame for frame in found.frames if frame.name not in held_out)
    return replace(found, frames=kept, dropped=(*found.dropped, *dropped))


def _names(found: ModelFrames, path: Path) -> list[str]:
    """The images that a list means, among all that are known."""
    known = [*(frame.name for frame in found.frames), *(image.name for image in found.dropped)]
    listed = read_list(path)
    return match_names(ImageList(listed.source, found.renamed(listed.names), listed.lines), known)
