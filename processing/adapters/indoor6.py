"""Indoor-6 (Do et al., CVPR 2022): a COLMAP model per scene, and lists of test and validation images as the published code keeps them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from d2s.errors import FormatError, InputError
from d2s.scene.atomic import read_json
from processing.adapters.assemble import assemble, refuse_gt
from processing.adapters.base import AdapterOptions, SceneSource
from processing.adapters.folders import find_files, scene_folder
from processing.adapters.lists import ImageList, normal_name
from processing.adapters.query_cameras import listed_but_missing, read_model_cameras, read_query_cameras, with_cameras
from processing.adapters.sfm_layout import ModelFrames, find_model, read_frames

logger = logging.getLogger(__name__)

SFM_FOLDER = "indoor6_sfm_triangulated"
FULL_MODEL, TRAIN_MODEL = "sfm_sift_full", "sfm_superpoint+superglue"
TEST_LIST, TEST_VAL_LIST = "list_test.txt", "list_test_val.txt"
QUERY_LIST = "query_list_with_intrinsics.txt"
ORIGINAL_NAMES = "id_to_origin_name.txt"
PICKLED_SPLIT = "train_test_val.pkl"
INTRINSICS = ".intrinsics.txt"
EXPECTED = f"a COLMAP model (images.bin), for example {SFM_FOLDER}/SCENE"


def load(options: AdapterOptions) -> SceneSource:
    """A scene of Indoor-6: every image has its own camera, the images of list_test_val.txt that are no queries are validation images.

    Units are metres, as published. The split of the original download is a Python pickle, which is never loaded. Raises InputError and its
    kind for whatever is wrong with the data.
    """
    refuse_gt(options, "indoor6")
    folders = list(_scene_folders(options))
    model = find_model(_models(folders))
    if model is None:
        _refuse_pickle(options, folders)
        scene_folder(options, "indoor6", lambda _: False, EXPECTED)  # raises, saying what is there instead
    assert model is not None
    homes = [model, *([model.parent] if model.name == FULL_MODEL else []), *folders]  # where files that belong to the model may lie
    found = _frames(model, homes)
    found = _with_own_cameras(found, model, homes, options)
    lists = _lists(found, homes)
    if "test" not in lists and options.list_test is None and options.list_train is None:
        logger.warning("%s has no %s: the split is ours, not the published one.", model, TEST_LIST)
    return assemble(
        "indoor6",
        options.scene or Path(str(options.dataset_dir)).resolve().name,
        found.image_dir,
        found.cameras,
        found.frames,
        options,
        dropped=[*found.dropped, *listed_but_missing(found, lists.values())],
        own_lists=lists,
        provenance={"format": "indoor6", "poses": f"COLMAP model {model.name}", "units": "metres, as published"},
    )


def _scene_folders(options: AdapterOptions) -> Iterator[Path]:
    """Folders that may belong to the scene, in the layouts of the published code's two branches and of the data set itself."""
    if options.dataset_dir is None:
        return
    root = Path(options.dataset_dir)
    if options.scene:
        for base in (root / "indoor6", root / "gt_3Dmodels" / "indoor6", root / "imgs_datasets" / "indoor6", root):
            yield from (base / SFM_FOLDER / options.scene, base / options.scene)
    if root.resolve().name == options.scene or not options.scene:
        yield from (root, root.parent / SFM_FOLDER / root.name)


def _models(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (folder / FULL_MODEL, folder, folder / "sparse" / "0", folder / "sparse")


def _refuse_pickle(options: AdapterOptions, folders: list[Path]) -> None:
    pickled = _existing(folders, PICKLED_SPLIT)
    if pickled is not None:
        place = Path(str(options.dataset_dir)) / "indoor6" / SFM_FOLDER / pickled.parent.name
        raise InputError(
            f"{pickled} is a Python pickle, which is not read since loading one can run any code, and there is no COLMAP model.",
            f"Put the scene's model (colmap.zip of the data set) and {TEST_LIST} into {place}.",
        )


def _existing(folders: list[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _frames(model: Path, homes: list[Path]) -> ModelFrames:
    """Frames of the model, whose names may be others than the files'."""
    places = [place for home in homes for place in (home / "images", home)]
    names = _existing(homes, ORIGINAL_NAMES)
    aliases = _aliases(names) if names is not None else _names_beside_images(places)
    found = read_frames(model, places, aliases=aliases)
    other = {aliases[name]: file for name, file in found.name_on_disk.items() if name in aliases}
    return replace(found, name_on_disk={**other, **found.name_on_disk})


def _aliases(path: Path) -> dict[str, str]:
    """Original name -> working name (image%08d.png) and back, of a JSON object id -> original name."""
    content = read_json(path)
    try:
        pairs = [(normal_name(name), f"image{int(index):08d}.png") for index, name in content.items()]
    except (AttributeError, TypeError, ValueError):
        raise FormatError(f"{path} is not a JSON object of image ids and names.") from None
    return {**dict(pairs), **{working: name for name, working in pairs}}


def _names_beside_images(places: list[Path]) -> dict[str, str]:
    """Original name -> file, as the original download says it: the seventh field of the intrinsics beside each image."""
    for place in places:
        notes = sorted(place.glob(f"*{INTRINSICS}"))
        images = {name.removesuffix(".color.jpg"): name for name in find_files(place, (".color.jpg",))} if notes else {}
        fields = {note.name.removesuffix(INTRINSICS): note.read_text(encoding="utf-8").split() for note in notes}
        aliases = {normal_name(line[6]): images[stem] for stem, line in fields.items() if len(line) > 6 and stem in images}
        if aliases:
            return aliases
    return {}


def _with_own_cameras(found: ModelFrames, model: Path, homes: list[Path], options: AdapterOptions) -> ModelFrames:
    """Cameras as the published code takes them: of the queries from their list, of the others from the model made for training."""
    if model.name == FULL_MODEL and find_model([model.parent / TRAIN_MODEL]) is not None:
        found = with_cameras(found, read_model_cameras(model.parent / TRAIN_MODEL))
    listed = options.list_test or _existing(homes, QUERY_LIST)
    return with_cameras(found, read_query_cameras(listed)) if listed is not None and listed.is_file() else found


def _lists(found: ModelFrames, homes: list[Path]) -> dict[str, ImageList]:
    """Test images; validation images are the rest of list_test_val.txt, which may repeat the test images."""
    paths = {"test": _existing(homes, TEST_LIST), "val": _existing(homes, TEST_VAL_LIST) or _existing(homes, "list_val.txt")}
    lists = found.lists({split: path for split, path in paths.items() if path is not None})
    if "val" in lists:
        test = set(lists["test"].names) if "test" in lists else set()
        names = tuple(dict.fromkeys(name for name in lists["val"].names if name not in test))
        lists["val"] = ImageList(lists["val"].source, names)
    return {split: entries for split, entries in lists.items() if entries.names}
