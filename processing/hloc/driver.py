"""Running hloc: extraction, pairs, matching and triangulation at known poses, through its Python functions.

Every file is written elsewhere and renamed when it is whole, and has a record of its settings beside it (`FILE.json`): hloc itself keeps
whatever it finds under a name, whatever it was made with.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from d2s.errors import InputError, MissingFileError
from d2s.features.base import LocalFeatures, settings_hash
from d2s.features.table import FEATURES, make_extractor
from d2s.geometry.camera import format_camera
from d2s.matching.table import make_matcher
from d2s.scene.atomic import atomic_path, read_json, remove_leftovers, write_json
from d2s.scene.manifest import Scene
from processing.feature_stage import extract_scene
from processing.hloc import package
from processing.hloc.extractors import record_path
from processing.hloc.formats import HlocFeatures, read_pairs, write_pairs
from processing.hloc.outputs import HlocOutputs
from processing.hloc.repair import DATABASE, mend_database
from processing.sfm.colmap import SfmOptions, choose_pairs, views_of
from processing.sfm.database import posed_model
from processing.sfm.matching import cached
from processing.sfm.model_files import save_model

logger = logging.getLogger(__name__)

EXTRACTORS = {"superpoint": "superpoint_aachen", "d2net": "d2net-ss", "disk": "disk", "aliked": "aliked-n16"}
"""Configuration of hloc for each of our features that it has; the others are extracted by ours, in hloc's layout."""
MATCHERS = {
    "superpoint": ("superglue", "superpoint+lightglue", "NN-superpoint"),
    "disk": ("disk+lightglue", "NN-mutual"),
    "aliked": ("aliked+lightglue", "NN-mutual"),
    "sift": ("NN-ratio",),
}
"""hloc's matchers for a feature, the best first: the first that is usable here is taken. Others: NN-mutual."""
PAIRS = ("overlap", "poses", "covisibility", "retrieval")
REFERENCE = "sfm_reference"
OWN = "own"
MARK = "d2s_hloc.json"
"""Says that the files in a folder are ours to make anew."""


@dataclass(frozen=True)
class DriveOptions:
    """What to run. Empty strings stand for what suits the feature.

    `features`: our name of it. `conf`, `matcher`: names of hloc's configurations (`conf` `own`: our extractor). `pairs`: one of PAIRS or a
    pairs file. `reference`: COLMAP model for covisibility. `global_conf`: hloc's global descriptor for retrieval.
    """

    features: str
    num_keypoints: int
    conf: str = ""
    matcher: str = ""
    pairs: str = "overlap"
    num_pairs: int = 20
    reference: Path | None = None
    global_conf: str = "netvlad"

    def record(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "reference": None if self.reference is None else str(self.reference)}


class Driver:
    """Runs hloc for one scene, whose poses are known, and leaves its files in `folder` under hloc's names."""

    def __init__(self, options: DriveOptions, folder: Path, device: str = "cpu", weights: Path | None = None) -> None:
        self.options, self.folder, self.device, self.weights = options, Path(folder), device, weights

    def run(self, scene: Scene) -> HlocOutputs:
        """Everything, as far as it is not there already with the same settings; gives the files."""
        logger.info("Running hloc %s in %s", package.version(), self.folder)
        write_json(self.folder / MARK, self.options.record())
        remove_leftovers(self.folder)
        train = scene.with_images(scene.split("train"))
        features = self._extract(scene)
        reference = self._reference(train)
        pairs = self._pairs(train, features, reference)
        matcher, matches = self._match(features, pairs)
        sfm = self._triangulate(train, reference, features, pairs, matches, matcher)
        return HlocOutputs(self.folder, features, sfm)

    def _make(self, name: str, record: dict[str, Any], work: Callable[[Path], None]) -> Path:
        """The file or folder `name`, made by `work` at a path that is then renamed, unless it is there with the same record."""
        path = self.folder / name
        note = record_path(path)
        record = json.loads(json.dumps(record))
        if path.exists() and note.is_file() and read_json(note) == record:
            logger.info("hloc: %s is there already, made with the same settings", name)
            return path
        if path.exists() and not note.is_file():
            raise InputError(f"{path} is there, and nothing says how it was made.", "Move it away, or give another --hloc_out_dir.")
        if path.exists():
            logger.info("hloc: %s is made anew, as its settings changed", name)
        note.unlink(missing_ok=True)
        with atomic_path(path) as temporary:
            work(temporary)
        write_json(note, record)
        return path

    def _extract(self, scene: Scene) -> Path:
        conf = self._extractor_conf()
        if conf is None:
            return self._extract_own(scene)
        names = [image.name for image in scene.images]
        record = {"conf": conf, "as_half": False, "images": settings_hash({"names": names, "dir": str(scene.image_dir.resolve())})}

        def work(path: Path) -> None:
            logger.info("hloc: extracting %s of %d images", conf["output"], len(names))
            package.hloc_module("extract_features").main(conf, scene.image_dir, as_half=False, image_list=names, feature_path=path)

        return self._make(f"{conf['output']}.h5", record, work)

    def _extractor_conf(self) -> dict[str, Any] | None:
        """The configuration of hloc's extractor with our number of keypoints; None where ours is to be taken."""
        given, feature = self.options.conf, self.options.features
        name = given or EXTRACTORS.get(feature, OWN)
        if name == OWN:
            return None
        conf = package.configuration("extract_features", name)
        problem = package.usable("extractors", conf["model"])
        if problem and given:
            raise InputError(problem, f"Choose another --hloc_conf, or --hloc_conf {OWN}.")
        if problem:
            logger.info("%s Features come from our own %s extractor.", problem, feature)
            return None
        return exact_count(conf, self.options.num_keypoints)

    def _extract_own(self, scene: Scene) -> Path:
        """Our extractor's features: our file has hloc's layout."""
        extractor = make_extractor(self.options.features, self.options.num_keypoints, self.device, self.weights, **self._own_options())
        settings = json.loads(json.dumps(extractor.settings()))
        images = scene.split("train", "val")
        path = self.folder / f"feats-{self.options.features}-n{self.options.num_keypoints}-{OWN}.h5"
        record = {"own_features": settings, "images": settings_hash({"names": [image.name for image in images]})}
        if not (path.is_file() and record_path(path).is_file() and read_json(record_path(path)) == record):
            record_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            logger.info("Extracting %s features of %d images for hloc", self.options.features, len(images))
            extract_scene(path, scene, images, extractor, None, skip_bad_images=False)
            write_json(record_path(path), record)
        return path

    def _own_options(self) -> dict[str, Any]:
        """SuperPoint's descriptors where hloc's matchers expect them."""
        return {"sampling": "hloc"} if "sampling" in FEATURES[self.options.features].options else {}

    def _reference(self, train: Scene) -> Path:
        """The poses, as the model that hloc reads them from."""
        empty = {image.name: np.zeros((0, 2)) for image in train.images}
        path = self.folder / REFERENCE
        save_model(posed_model(train, empty), path)
        return path

    def _pairs(self, train: Scene, features: Path, reference: Path) -> Path:
        kind, count = self.options.pairs, min(self.options.num_pairs, len(train.images) - 1)
        if kind not in PAIRS:
            return self._given_pairs(Path(kind), {image.name for image in train.images})
        work = {
            "overlap": lambda path: write_pairs(path, self._overlapping(train, features)),
            "poses": lambda path: package.hloc_module("pairs_from_poses").main(reference, path, count),
            "covisibility": lambda path: package.hloc_module("pairs_from_covisibility").main(self._covisible(), path, count),
            "retrieval": lambda path: self._retrieve(train, reference, path, count),
        }[kind]
        short = {"covisibility": "covis", "retrieval": self.options.global_conf}.get(kind, kind)
        record = {"kind": kind, "count": count, "poses": poses_hash(train), "features": _note_of(features), **self._pair_sources(kind)}
        names = {image.name for image in train.images}
        return self._make(f"pairs-db-{short}{count}.txt", record, lambda path: self._restricted(work, names, path))

    @staticmethod
    def _restricted(work: Callable[[Path], object], train: set[str], path: Path) -> None:
        """Pairs as `work` writes them, of training images alone: a reference model may hold others."""
        work(path)
        pairs = [pair for pair in read_pairs(path) if set(pair) <= train]
        if not pairs:
            raise InputError("hloc found no pair of two training images.", f"Choose another of --hloc_pairs: {', '.join(PAIRS)}.")
        write_pairs(path, pairs)

    def _pair_sources(self, kind: str) -> dict[str, Any]:
        return {"reference": str(self.options.reference)} if kind == "covisibility" else {}

    def _covisible(self) -> Path:
        if self.options.reference is None:
            raise InputError("--hloc_pairs covisibility needs a COLMAP model with points.", "Give its folder with --hloc_reference.")
        if not self.options.reference.is_dir():
            raise MissingFileError(f"--hloc_reference {self.options.reference} is not a folder.")
        return self.options.reference

    def _overlapping(self, train: Scene, features: Path) -> list[tuple[str, str]]:
        """Pairs that our own path would match: those that see the same with parallax."""
        with HlocFeatures(features) as reader:

            def take(name: str) -> LocalFeatures:
                raw = reader.read(name)
                return raw.take(raw.best(self.options.num_keypoints))

            read = cached(take, take(train.images[0].name))
            matcher = make_matcher("nn", self.options.features, self.device)
            options = SfmOptions(num_neighbors=self.options.num_pairs)
            return choose_pairs(train, read, matcher, views_of(train, read), options)

    def _retrieve(self, train: Scene, reference: Path, path: Path, count: int) -> None:
        conf = package.configuration("extract_features", self.options.global_conf)
        names = [image.name for image in train.images]
        record = {"conf": conf, "images": settings_hash({"names": names, "dir": str(train.image_dir.resolve())})}
        extract = package.hloc_module("extract_features").main
        descriptors = self._make(
            f"{conf['output']}.h5", record, lambda at: extract(conf, train.image_dir, image_list=names, feature_path=at)
        )
        package.hloc_module("pairs_from_retrieval").main(descriptors, path, count, db_model=reference, query_list=names)

    def _given_pairs(self, path: Path, train: set[str]) -> Path:
        """The user's pairs of training images: others are in no model."""
        if not path.is_file():
            raise MissingFileError(f"--hloc_pairs {path} is not a file.", f"Give a pairs file, or one of: {', '.join(PAIRS)}.")
        pairs = [pair for pair in read_pairs(path) if set(pair) <= train]
        if not pairs:
            raise InputError(f"--hloc_pairs {path} has no pair of two training images.")
        return self._make(f"pairs-given-{path.stem}.txt", {"pairs": settings_hash({"rows": pairs})}, lambda at: write_pairs(at, pairs))

    def _match(self, features: Path, pairs: Path) -> tuple[str, Path]:
        name = self._matcher_name()
        conf = package.configuration("match_features", name)
        record = {"conf": conf, "features": _note_of(features), "pairs": settings_hash({"text": pairs.read_text(encoding="utf-8")})}

        def work(path: Path) -> None:
            logger.info("hloc: matching with %s", name)
            package.hloc_module("match_features").main(conf, pairs, features, matches=path)

        return name, self._make(f"{features.stem}_{conf['output']}_{pairs.stem}.h5", record, work)

    def _matcher_name(self) -> str:
        """The configuration that the user gave, or the best one that is usable."""
        given = self.options.matcher
        names = (given,) if given else MATCHERS.get(self.options.features, ()) + ("NN-mutual",)
        for name in names:
            problem = package.usable("matchers", package.configuration("match_features", name)["model"])
            if not problem:
                return name
            if given:
                raise InputError(problem, "Choose another --hloc_matcher.")
            logger.info("%s", problem)
        raise InputError("None of hloc's matchers can be used here.", "Give one with --hloc_matcher.")

    def _triangulate(self, train: Scene, reference: Path, features: Path, pairs: Path, matches: Path, matcher: str) -> Path:
        record = {"matches": read_json(record_path(matches)), "poses": poses_hash(train), "pycolmap": pycolmap.__version__}
        name = f"sfm_{self._feature_name()}+{matcher.rpartition('+')[2]}"

        def work(path: Path) -> None:
            logger.info("hloc: triangulating %d images", len(train.images))
            triangulate(path, reference, train.image_dir, pairs, features, matches)

        return self._make(name, record, work)

    def _feature_name(self) -> str:
        return self.options.conf if self.options.conf not in ("", OWN) else self.options.features


def exact_count(conf: dict[str, Any], num_keypoints: int) -> dict[str, Any]:
    """The configuration with exactly `num_keypoints` keypoints per image, as far as its extractor can: SuperPoint by threshold 0."""
    model = conf["model"]
    if "max_keypoints" in model:
        conf["output"] = conf["output"].replace(f"n{model['max_keypoints']}", f"n{num_keypoints}")
        model["max_keypoints"] = num_keypoints
    if model["name"] == "superpoint":
        model["keypoint_threshold"] = 0.0
    if model["name"] == "aliked":
        model["max_num_keypoints"] = num_keypoints
    return conf


def triangulate(sfm: Path, reference: Path, image_dir: Path, pairs: Path, features: Path, matches: Path) -> pycolmap.Reconstruction:
    """Triangulation of hloc at known poses, step by step, with its database mended before COLMAP reads it (see `repair`)."""
    steps = package.hloc_module("triangulation")
    shutil.rmtree(sfm, ignore_errors=True)
    sfm.mkdir(parents=True)
    database = sfm / DATABASE
    model = pycolmap.Reconstruction(str(reference))
    ids = steps.create_db_from_model(model, database)
    with pycolmap.Database.open(str(database)) as opened:
        steps.import_features(ids, opened, features)
        steps.import_matches(ids, opened, pairs, matches)
    with pycolmap.Database.open(str(database)) as opened:
        steps.geometric_verification(ids, model, opened, features, pairs, matches)
    mended = mend_database(database)
    if mended:
        logger.info("hloc: %d image pairs were UNDEFINED, which COLMAP 4 ignores; they are CALIBRATED now", mended)
    return steps.run_triangulation(sfm, database, image_dir, model, options={"extract_colors": False})


def poses_hash(scene: Scene) -> str:
    """A short name for images, poses and cameras."""
    poses = [None if i.cam_from_world is None else np.round(i.cam_from_world, 9).tolist() for i in scene.images]
    rows = [[i.name, known, format_camera(scene.camera(i))] for i, known in zip(scene.images, poses, strict=True)]
    return settings_hash({"rows": rows})


def _note_of(features: Path) -> Any:
    return read_json(record_path(features))
