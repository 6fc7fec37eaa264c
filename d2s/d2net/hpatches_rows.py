"""Where the features of a row of the HPatches table come from: extracted here and kept, or files that another program wrote."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from d2s.d2net.hpatches import PlanarSequence
from d2s.errors import FormatError, InputError, MissingFileError, SettingsMismatchError
from d2s.features.base import Extractor, LocalFeatures
from d2s.features.extraction import extract_all
from d2s.features.images import image_size
from d2s.scene.atomic import read_json, write_json
from d2s.scene.feature_store import FeatureReader, FeatureWriter

SETTINGS = "settings.json"


class Row(Protocol):
    """One method of the table."""

    name: str

    def settings(self) -> dict[str, Any]:
        """What decides its features (JSON values)."""
        ...

    def features(self, sequence: PlanarSequence) -> list[LocalFeatures]:
        """Features of the sequence's six images; descriptors float32, unit length."""
        ...


class ExtractedHere:
    """Features that an extractor of ours makes, one file per sequence in a folder of the row's own: a killed run goes on.

    Raises SettingsMismatchError where the folder holds those of other settings, unless `overwrite` is set, which removes them.
    """

    def __init__(self, name: str, extractor: Extractor, cache: Path, overwrite: bool = False) -> None:
        self.name, self.extractor = name, extractor
        self.folder = cache / re.sub(r"[^\w.-]+", "_", name)
        if overwrite and self.folder.is_dir():
            shutil.rmtree(self.folder)
        self._check_settings()

    def settings(self) -> dict[str, Any]:
        """The extractor's, as JSON reads them."""
        return dict(json.loads(json.dumps(self.extractor.settings())))

    def _check_settings(self) -> None:
        record = self.folder / SETTINGS
        if not record.is_file():
            write_json(record, self.settings())
            return
        stored, now = read_json(record), self.settings()
        if stored != now:
            keys = [key for key in sorted({*stored, *now}) if stored.get(key) != now.get(key)]
            raise SettingsMismatchError(
                f"{self.folder} holds features with another {', '.join(keys)}.", "Use another --output, or extract anew with --overwrite."
            )

    def features(self, sequence: PlanarSequence) -> list[LocalFeatures]:
        """From the file; extracted first where there is none. Always those of the file: a resumed run gives the same numbers."""
        path, names = self.folder / f"{sequence.name}.h5", [image.stem for image in sequence.images]
        if not path.is_file():
            self._extract(path, sequence)
        try:
            with FeatureReader(path) as reader:
                found = [_unit(reader.read(name)) for name in names]
        except InputError as error:
            raise FormatError(error.problem, "Delete it, and run the same command again.") from None
        for image, features in zip(sequence.images, found, strict=True):
            if features.image_size != (size := image_size(image)):
                raise SettingsMismatchError(
                    f"{path} is of another data set: {image} has {size} pixels, its features are of {features.image_size}.",
                    "Use another --output, or extract anew with --overwrite.",
                )
        return found

    def _extract(self, path: Path, sequence: PlanarSequence) -> None:
        writer = FeatureWriter(path, self.settings())
        images = [(image.stem, image) for image in sequence.images if image.stem not in writer.done]
        writer.write(extract_all(self.extractor, images))
        writer.finish([image.stem for image in sequence.images])


class FromFiles:
    """Features in npz files beside the images: `keypoints` (N, 2 or more) x y ..., `descriptors` (N, D), `scores` (N,) where given."""

    def __init__(self, name: str, extension: str) -> None:
        self.name, self.extension = name, extension

    def settings(self) -> dict[str, Any]:
        """The extension alone: nothing else is known."""
        return {"extension": self.extension}

    def features(self, sequence: PlanarSequence) -> list[LocalFeatures]:
        """Read and check the six files."""
        return [self._read(image) for image in sequence.images]

    def _read(self, image: Path) -> LocalFeatures:
        path = image.with_name(image.name + self.extension)
        arrays = _load(path)
        _check(path, arrays)
        keypoints = arrays["keypoints"][:, :2]
        scores = arrays.get("scores", np.full(len(keypoints), np.nan, np.float32)).reshape(-1)
        return _unit(LocalFeatures(keypoints, scores, arrays["descriptors"], image_size(image)))


def _load(path: Path) -> dict[str, NDArray[np.float32]]:
    """The arrays of an npz file; `scores` may be absent."""
    try:
        with np.load(path) as file:
            keys = ["keypoints", "descriptors", *(["scores"] if "scores" in file else [])]
            return {key: np.asarray(file[key], np.float32) for key in keys}
    except FileNotFoundError:
        remedy = "Extract the features first; --image_list writes the list of images."
        raise MissingFileError(f"Feature file {path} does not exist.", remedy) from None
    except KeyError:
        raise FormatError(f"Feature file {path} lacks keypoints or descriptors.", "It must hold both, under these names.") from None
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:80]
        raise FormatError(f"Feature file {path} is not an npz file of numbers ({reason}).", "Write it with numpy.savez.") from None


def _check(path: Path, arrays: dict[str, NDArray[np.float32]]) -> None:
    keypoints, descriptors, scores = arrays["keypoints"], arrays["descriptors"], arrays.get("scores")
    right = keypoints.ndim == descriptors.ndim == 2 and keypoints.shape[1] >= 2 and len(keypoints) == len(descriptors)
    if not right or (scores is not None and scores.size != len(keypoints)):
        shapes = ", ".join(f"{key} {value.shape}" for key, value in arrays.items())
        raise FormatError(f"{path} must hold keypoints (N, 2 or more), descriptors (N, D) and perhaps scores (N,), not {shapes}.")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise FormatError(f"{path} holds numbers that are not finite.", "Extract its features again.")


def _unit(features: LocalFeatures) -> LocalFeatures:
    """Descriptors as float32 of unit length: files hold them rounded, and other programs not always scaled."""
    descriptors = features.descriptors.astype(np.float32)
    norms = np.linalg.norm(descriptors, axis=1, keepdims=True)
    return LocalFeatures(features.keypoints, features.scores, descriptors / np.maximum(norms, 1e-12), features.image_size)


def check_names(names: Sequence[str]) -> None:
    """Raises InputError when two rows have the same name, and so the same folder."""
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise InputError(f"Two rows are named {', '.join(double)}.", "Name each of --features, --model_file and --extracted once.")
