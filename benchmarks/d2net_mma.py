"""Matching accuracy of D2-Net with corrected and with published coordinates, same weights, on photos under known homographies.

    python benchmarks/d2net_mma.py --photos DIR [DIR ...] --weights FILE [--multiscale]

From each photo two sequences in HPatches' layout are rendered: in one the light changes (gamma, gain, a ramp, noise), in the other the view
turns, scales and tilts. Both ways are scored with all keypoints, and without those near the image's border: there the published code sees
zeros beyond its map, and finds keypoints that belong to the frame, not to what it shows. Where the camera stands still they look right.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from d2s.d2net.hpatches import PlanarSequence, read_hpatches
from d2s.d2net.hpatches_evaluation import Result, evaluate, table
from d2s.d2net.hpatches_rows import ExtractedHere
from d2s.features.base import LocalFeatures
from d2s.features.images import IMAGE_SUFFIXES, read_image
from d2s.features.table import make_extractor

RESULTS = Path(__file__).parent / "results" / "d2net_mma.json"
PHOTO_SIDE = 900  # longer side of a photo before its middle is cut out
SHARE = 0.6  # of the photo in an image, so that turned images have content everywhere
FINER = 2  # images are rendered this much larger and averaged down: no aliasing
MARGIN = 14  # pixels: beyond the border's cells and their offset
PUBLISHED_OFFSET = 2.0  # pixels that the published coordinates lie to the left of and above what they mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--count", type=int, default=3, help="photos of each folder, evenly spread")
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of D2-Net or VGG16")
    parser.add_argument("--multiscale", action="store_true", help="the pyramid, too (ten times as slow)")
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(message)s")
    torch.set_num_threads(1)
    photos = [photo for folder in args.photos for photo in spread(folder, args.count)]
    with tempfile.TemporaryDirectory() as folder:
        for number, photo in enumerate(photos):
            render_photo(photo, Path(folder) / "data", number)
        results = measure(read_hpatches(Path(folder) / "data"), args.weights, args.multiscale, Path(folder) / "features")
    print(table(results))
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    rows = {result.title: result.summary() for result in results}
    inputs = {"photos": [photo.name for photo in photos], "weights": args.weights.name, "margin_px": MARGIN}
    found = {**inputs, "rows": rows, "versions": versions}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def spread(folder: Path, count: int) -> list[Path]:
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    return [photos[round(k)] for k in np.linspace(0, len(photos) - 1, count)]


class Inner:
    """A row without the keypoints near the border; both ways lose the same part of the image."""

    def __init__(self, row: ExtractedHere, offset: float) -> None:
        self.row, self.offset, self.name = row, offset, f"{row.name}, inner"

    def settings(self) -> dict[str, Any]:
        """The row's."""
        return self.row.settings()

    def features(self, sequence: PlanarSequence) -> list[LocalFeatures]:
        """The row's, cut."""
        return [self.cut(features) for features in self.row.features(sequence)]

    def cut(self, f: LocalFeatures) -> LocalFeatures:
        """Those further than MARGIN inside."""
        place, last = f.keypoints + self.offset, np.array(f.image_size) - 1 - MARGIN
        kept = ((place >= MARGIN) & (place <= last)).all(axis=1)
        return LocalFeatures(f.keypoints[kept], f.scores[kept], f.descriptors[kept], f.image_size)


def measure(sequences: list[PlanarSequence], weights: Path, multiscale: bool, cache: Path) -> list[Result]:
    scales = {"single scale": (1.0,), **({"pyramid": (0.5, 1.0, 2.0)} if multiscale else {})}
    results = []
    for title, values in scales.items():
        for coordinates in ("corrected", "legacy"):
            extractor = make_extractor("d2net", 100_000, weights=weights, scales=values, coordinates=coordinates)
            row = ExtractedHere(f"{coordinates}, {title}", extractor, cache)
            results += evaluate(row, sequences)
            if values == (1.0,):  # the offset of the published coordinates differs from level to level
                results += evaluate(Inner(row, PUBLISHED_OFFSET * (coordinates == "legacy")), sequences)
    return results


def render_photo(photo: Path, root: Path, number: int) -> None:
    """Sequences i_NUMBER and v_NUMBER."""
    image = read_image(photo)
    factor = PHOTO_SIDE * FINER / max(image.shape[:2])
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    rng = np.random.default_rng(number)
    for kind in "iv":
        folder = root / f"{kind}_{number:02d}"
        folder.mkdir(parents=True)
        for k in range(1, 7):
            matrix = random_view(rng, middle(image)) if kind == "v" and k > 1 else np.eye(3)
            picture = render(image, matrix)
            if kind == "i" and k > 1:
                picture = other_light(rng, picture)
            cv2.imwrite(str(folder / f"{k}.png"), picture[:, :, ::-1])
            if k > 1:
                np.savetxt(folder / f"H_1_{k}", matrix)


def output_size(image: np.ndarray) -> tuple[int, int]:
    """Width and height of the rendered images."""
    return round(image.shape[1] / FINER * SHARE), round(image.shape[0] / FINER * SHARE)


def middle(image: np.ndarray) -> np.ndarray:
    return (np.array(output_size(image)) - 1) / 2


def random_view(rng: np.random.Generator, center: np.ndarray) -> np.ndarray:
    """(3, 3): up to 30 degrees, scales 0.6 to 1.6, and a tilt."""
    angle, scale = rng.uniform(-np.pi / 6, np.pi / 6), np.exp(rng.uniform(-0.5, 0.5))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[2, :2] = turn, rng.uniform(-4e-4, 4e-4, 2)
    return shift(center) @ matrix @ shift(-center)


def shift(by: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix


def render(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The view in which pixels of the first image, the middle of `image`, are taken by `matrix`; averaged from finer pixels."""
    width, height = output_size(image)
    fine = (width * FINER, height * FINER)
    half = shift(np.full(2, 0.5))
    finer = np.linalg.inv(half) @ np.diag([FINER, FINER, 1.0]) @ half  # edges on each other
    first = np.floor((np.array(image.shape[1::-1]) - fine) / 2)
    to_view = finer @ matrix @ np.linalg.inv(finer) @ shift(-first)
    view = cv2.warpPerspective(image, to_view, fine, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA))


def other_light(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    gamma, gain, slope = rng.uniform(0.5, 1.8), rng.uniform(0.5, 1.3), rng.uniform(-0.5, 0.5)
    ramp = 1 + slope * np.linspace(-1, 1, image.shape[1])[None, :, None]
    lit = 255 * (image / 255) ** gamma * gain * ramp + rng.normal(0, 3, image.shape)
    return np.clip(lit, 0, 255).round().astype(np.uint8)


if __name__ == "__main__":
    main()
