"""Where hloc's outputs for a scene lie, and which of its files belong together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pycolmap

from d2s.errors import FormatError, InputError, MissingFileError
from processing.hloc.formats import HlocFeatures, read_sfm
from processing.hloc.repair import refuse_empty_or_mend

logger = logging.getLogger(__name__)

THIRD_PARTY = Path(__file__).resolve().parents[2] / "third_party"
CLONES = ("Hierarchical-Localization", "Hierarchical_Localization")
QUERIES = "query_list_with_intrinsics.txt"
REFERENCES = ("sfm_reference", "sfm_sift", "sfm_sift_scaled", "sfm_poses")
"""Models that give hloc's pipelines the poses; their keypoints are not those of the feature file."""
HOW = "Run hloc for this scene first, or d2s preprocess --sfm hloc with hloc installed or cloned into third_party/."
PROBED = 10
"""Images on which feature files and models are compared."""


@dataclass(frozen=True)
class HlocOutputs:
    """The files of one scene that belong together."""

    folder: Path
    features: Path
    sfm: Path

    @property
    def queries(self) -> Path | None:
        """The list of query images with their cameras, where there is one."""
        found = sorted(self.folder.glob("*query_list_with_intrinsics*.txt"), key=lambda path: (path.name != QUERIES, path.name))
        return found[0] if found else None


def scene_folders(out_dir: Path | None, dataset: str, scene: str) -> list[Path]:
    """Existing folders that may hold hloc's outputs for a scene, the likeliest first.

    `out_dir` itself, DATASET/SCENE and outputs/DATASET/SCENE under it; names match in any case, `Hierarchical_Localization` and
    `Hierarchical-Localization` are one. Without `out_dir`: the outputs of a clone in third_party/.
    """
    roots = [_respelled(Path(out_dir))] if out_dir is not None else _clone_outputs()
    places = (("outputs", dataset, scene), (dataset, scene), (scene,)) if out_dir is None else _places(dataset, scene)
    found = [path for root in roots if root is not None for names in places if (path := _descend(root, names)) is not None]
    return list(dict.fromkeys(found))


def _places(dataset: str, scene: str) -> tuple[tuple[str, ...], ...]:
    return (dataset, scene), ("outputs", dataset, scene), (scene,), ()


def _clone_outputs() -> list[Path | None]:
    return [path / "outputs" for path in sorted(THIRD_PARTY.glob("*")) if (path / "outputs").is_dir()]


def _respelled(path: Path) -> Path | None:
    """The path, or the one that exists when hloc's name in it is written the other way and names have another case."""
    if path.is_dir():
        return path
    parts = path.absolute().parts
    return _descend(Path(parts[0]), parts[1:])


def _descend(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder root/names, each name exact or, failing that, in another case or spelling."""
    for name in names:
        exact = root / name
        if not exact.is_dir():
            alike = (p for p in sorted(_folders(root)) if _key(p.name) == _key(name))
            exact = next(alike, exact)
        if not exact.is_dir():
            return None
        root = exact
    return root


def _folders(root: Path) -> Iterator[Path]:
    try:
        yield from (path for path in root.iterdir() if path.is_dir())
    except OSError:  # a folder that may not be listed holds nothing that could be read
        return


def _key(name: str) -> str:
    return name.casefold().replace("_", "-")


def feature_files(folder: Path) -> list[Path]:
    """Files of local features in a folder, whatever their name."""
    return [path for path in sorted(folder.glob("*.h5")) if _has_keypoints(path)]


def _has_keypoints(path: Path) -> bool:
    """Whether the first image group of a file holds keypoints and descriptors (global features and matches do not)."""
    try:
        with h5py.File(path, "r") as file:
            item = file
            while isinstance(item, h5py.Group) and len(item) and "keypoints" not in item:
                item = item[next(iter(item))]
            return isinstance(item, h5py.Group) and "keypoints" in item and "descriptors" in item
    except (OSError, KeyError, RuntimeError):
        return False


def sfm_folders(folder: Path) -> list[Path]:
    """Models in a folder: hloc's own names first, then other names, depth-corrected ones after plain ones, reference models last."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    models = [path for place in places for path in (place, *_numbered(place)) if is_model(path)]
    return sorted(dict.fromkeys(models), key=_preference)


def _preference(model: Path) -> tuple[bool, bool, bool, str]:
    name = model.name
    return name in REFERENCES, not name.startswith("sfm"), name.endswith("+depth"), name


def _numbered(place: Path) -> list[Path]:
    """`reconstruction.main` of hloc leaves the models that it did not choose in models/N."""
    return [place / "0"]


def is_model(path: Path) -> bool:
    """Whether a folder holds a COLMAP model."""
    return any((path / f"images{suffix}").is_file() and (path / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def find_outputs(out_dir: Path | None, dataset: str, scene: str, features: str = "", sfm: str = "") -> HlocOutputs | None:
    """Outputs of hloc for a scene, None where nothing looks like any.

    `features`, `sfm`: name of the feature file and of the model's folder (or paths), where the user chose. Otherwise the feature file with
    which a model agrees in its numbers of keypoints, image by image, and that model. Raises InputError listing the candidates when there
    are files, but none that belong together.
    """
    problem: InputError | None = None
    for folder in scene_folders(out_dir, dataset, scene):
        if not feature_files(folder) and not sfm_folders(folder):
            continue
        try:
            return choose(folder, features, sfm)
        except InputError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None


def choose(folder: Path, features: str = "", sfm: str = "") -> HlocOutputs:
    """The feature file and the model of a folder that belong together; see `find_outputs`."""
    files = _chosen("feature file", "--hloc_features", features, folder, feature_files(folder))
    models = _chosen("SfM model", "--hloc_sfm", sfm, folder, sfm_folders(folder))
    for model in models:
        counts = _keypoint_counts(model)
        for file in files:
            if _agree(file, counts):
                return HlocOutputs(folder, file, model)
    raise FormatError(
        f"No feature file in {folder} has as many keypoints per image as an SfM model there: feature files {_names(files)}; "
        f"models {_names(models)}.",
        "Files and model must come from one run of hloc: run its triangulation again with overwrite, "
        "or say which belong together with --hloc_features and --hloc_sfm.",
    )


def _names(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _chosen(what: str, option: str, name: str, folder: Path, candidates: list[Path]) -> list[Path]:
    """The candidates, or the one that the user named."""
    if not candidates:
        raise MissingFileError(f"{folder} has no {what} of hloc.", HOW)
    if not name:
        return candidates
    named = [path for path in candidates if name in (path.name, path.stem, str(path)) or path.absolute() == Path(name).absolute()]
    if not named and (Path(name).is_file() or is_model(Path(name))):
        named = [Path(name)]
    if not named:
        raise MissingFileError(f"{option} {name}: {folder} has no such {what}.", f"It has: {_names(candidates)}.")
    return named


def _keypoint_counts(model: Path) -> dict[str, int]:
    """Numbers of keypoints of some images of a model, spread over it."""
    images = sorted(read_sfm(model).images.values(), key=lambda image: image.name)
    chosen = [images[int(i)] for i in np.unique(np.linspace(0, len(images) - 1, PROBED).astype(int))] if images else []
    return {image.name: image.num_points2D() for image in chosen}


def _agree(file: Path, counts: dict[str, int]) -> bool:
    with HlocFeatures(file) as reader:
        return bool(counts) and all(name in reader and reader.count(name) == count for name, count in counts.items())


def load_model(outputs: HlocOutputs) -> pycolmap.Reconstruction:
    """The SfM model with points in it, mended where hloc and pycolmap 4 disagreed. Raises InputError where that is impossible."""
    return refuse_empty_or_mend(read_sfm(outputs.sfm), outputs.sfm)
