"""Matching accuracy of D2-Net with corrected and with published coordinates, same weights, on photos under known warps.

    python benchmarks/d2net_mma.py --photos FILE [FILE ...] --weights FILE --folder DIR

Each photo is rendered as it is, and in other light, shifted, scaled, turned and tilted by known amounts; then the first is matched with the
others, at one scale and with the pyramid. Measured are the matching accuracy (MMA), and the bias: the length of the mean vector from where
matches of a pair should lie to where they do, over those within 8 px. `inner` rows are without keypoints near the image's border: there the
published code sees zeros beyond its map, and finds keypoints that belong to the frame, not to what it shows. Where the camera stands still,
such keypoints look right. Every photo's figures are kept in --folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from d2s.d2net.matching_accuracy import mutual_matches, transfer_errors
from d2s.d2net.published_api import D2Net
from d2s.features.d2net import pyramid
from d2s.features.d2net.preprocessing import normalise
from d2s.features.images import read_image
from d2s.scene.atomic import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "d2net_mma.json"
LONGEST = 384  # longer side of the rendered images, pixels
SHARE = 0.6  # of the photo in an image, so that turned images have content everywhere
FINER = 2  # images are rendered this much larger and averaged down: no aliasing
MARGIN = 14  # pixels: beyond the border's cells and their offset
PUBLISHED_OFFSET = 2.0  # pixels of its level that a published keypoint lies to the left of and above what it means
MMA_LIMITS = (1, 2, 3, 5)
BIAS_LIMIT = 8.0  # matches farther off are wrong ones
SCALES = {"single scale": (1.0,), "pyramid": pyramid.MULTISCALE}
COORDINATES = ("corrected", "legacy")


@dataclass(frozen=True)
class Points:
    """Keypoints (N, 3) x, y, size of a pixel of their level; descriptors (N, 512)."""

    keypoints: np.ndarray
    descriptors: np.ndarray

    def inner(self, size: tuple[int, int], offset: float) -> Points:
        """Those that look at something further than MARGIN inside an image of (width, height)."""
        places = self.keypoints[:, :2] + offset * self.keypoints[:, 2:]
        kept = ((places >= MARGIN) & (places <= np.array(size) - 1 - MARGIN)).all(axis=1)
        return Points(self.keypoints[kept], self.descriptors[kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint of D2-Net or VGG16")
    parser.add_argument("--folder", type=Path, required=True, help="of figures per photo")
    args = parser.parse_args()
    torch.set_num_threads(1)
    network = D2Net(args.weights)
    pairs = []
    for number, photo in enumerate(args.photos):
        record = args.folder / f"{photo.name}.json"
        if not record.is_file():
            write_json(record, measure(network, photo, number))
        pairs += read_json(record)
    rows = summary(pairs)
    for key, row in rows.items():
        print(f"{key:<40}{row['keypoints']:6.0f}{row['matches']:6.0f}  bias {row['bias_px']:.2f}  MMA {row['mma']}")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    inputs = {"photos": [photo.name for photo in args.photos], "weights": args.weights.name, "longest_px": LONGEST, "margin_px": MARGIN}
    write_json(RESULTS, {**inputs, "bias_limit_px": BIAS_LIMIT, "rows": rows, "versions": versions})


def measure(network: D2Net, photo: Path, seed: int) -> list[dict[str, Any]]:
    """A row per warp and way of a photo."""
    image = read_image(photo)
    factor = LONGEST / SHARE * FINER / max(image.shape[:2])
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    size = output_size(image)
    first = dict(extract(network, render(image, np.eye(3))))
    rows = []
    for kind, matrix, picture in views(image, np.random.default_rng(seed)):
        for way, points in extract(network, picture):
            offset = PUBLISHED_OFFSET if way[0] == "legacy" else 0.0
            for part, pair in (("all", (first[way], points)), ("inner", tuple(p.inner(size, offset) for p in (first[way], points)))):
                rows.append({"way": [*way, part], "kind": kind, **compare(*pair, matrix)})
    return rows


def extract(network: D2Net, image: np.ndarray) -> Iterator[tuple[tuple[str, str], Points]]:
    """Features of an image in each way. The network sees the image's own size once."""
    ready = normalise(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], "caffe")
    with torch.inference_mode():
        dense = network(ready)
        for title, scales in SCALES.items():
            for coordinates in COORDINATES:
                (found,) = pyramid.extract(lambda x: dense.clone() if x is ready else network(x), ready, scales, coordinates)
                yield (coordinates, title), Points(found.keypoints.numpy(), found.descriptors.numpy())


def compare(one: Points, two: Points, matrix: np.ndarray) -> dict[str, Any]:
    rows, columns = mutual_matches(one.descriptors, two.descriptors).T
    places = one.keypoints[rows, :2].astype(np.float64), two.keypoints[columns, :2].astype(np.float64)
    errors = transfer_errors(*places, matrix)
    expected = cv2.perspectiveTransform(places[0][None], matrix)[0]
    near = errors < BIAS_LIMIT
    return {
        "keypoints": len(one.keypoints),
        "matches": len(errors),
        "near": int(near.sum()),
        "beside": (places[1] - expected)[near].sum(axis=0).tolist(),
        "within": [int((errors <= limit).sum()) for limit in MMA_LIMITS],
    }


def summary(pairs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean MMA and bias over the pairs of each way and kind of warp."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair in pairs:
        for kind in (pair["kind"], "all warps") if pair["kind"] != "light" else ("light",):
            groups.setdefault(", ".join([*pair["way"], kind]), []).append(pair)
    return {key: mean_of(group) for key, group in groups.items()}


def mean_of(group: list[dict[str, Any]]) -> dict[str, Any]:
    shares = [np.array(pair["within"]) / max(1, pair["matches"]) for pair in group]
    beside = [np.linalg.norm(pair["beside"]) / max(1, pair["near"]) for pair in group]
    return {
        "pairs": len(group),
        "keypoints": float(np.mean([pair["keypoints"] for pair in group])),
        "matches": float(np.mean([pair["matches"] for pair in group])),
        "bias_px": round(float(np.mean(beside)), 3),
        "mma": dict(zip(map(str, MMA_LIMITS), np.mean(shares, axis=0).round(4).tolist(), strict=True)),
    }


def views(image: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Kind, homography from the first image, and picture of every other view."""
    for gamma, slope in ((0.6, 0.4), (1.6, -0.4)):
        yield "light", np.eye(3), other_light(rng, render(image, np.eye(3)), gamma, slope)
    center = shift((np.array(output_size(image)) - 1) / 2)
    tilt = np.eye(3)
    tilt[2, :2] = rng.choice([-1, 1], 2) * 6e-4
    for kind, matrices in {
        "shift": (shift(np.array([6.5, -9.25])), shift(np.array([-17.75, 3.5]))),
        "scale": (similarity(0.7, 0), similarity(1.4, 0)),
        "turn": (similarity(1, 20), similarity(1, -35)),
        "tilt": (tilt @ similarity(1.2, 10), np.linalg.inv(tilt) @ similarity(0.8, -15)),
    }.items():
        for matrix in matrices:
            around = center @ matrix @ np.linalg.inv(center)
            yield kind, around, render(image, around)


def similarity(scale: float, degrees: float) -> np.ndarray:
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def shift(by: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = by
    return matrix


def output_size(image: np.ndarray) -> tuple[int, int]:
    """Width and height of the rendered images."""
    return round(image.shape[1] / FINER * SHARE), round(image.shape[0] / FINER * SHARE)


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


def other_light(rng: np.random.Generator, image: np.ndarray, gamma: float, slope: float) -> np.ndarray:
    """Another exposure, brighter on one side, with noise."""
    ramp = 1 + slope * np.linspace(-1, 1, image.shape[1])[None, :, None]
    lit = 255 * (image / 255) ** gamma * ramp + rng.normal(0, 3, image.shape)
    return np.clip(lit, 0, 255).round().astype(np.uint8)


if __name__ == "__main__":
    main()
