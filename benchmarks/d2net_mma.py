"""Matching accuracy of D2-Net with corrected and with published coordinates, same weights, on photos under known warps.

    python benchmarks/d2net_mma.py --data DIR --weights FILE [random] --pyramid FILE --folder DIR [--more PLACE=FILE ...]

Photos of the fox, of Gerrard Hall and of the red kitchen in the data folder, and others that are named. Each is rendered as it is, and in
other light, shifted, scaled, turned and tilted by known amounts (d2net_warps.py); then the first is matched with the others, at one scale
(--weights) and with the pyramid (--pyramid). Measured over photos, with the standard error of their mean, are

- the matching accuracy (MMA), and by how much that of corrected coordinates is higher;
- the offset that all keypoints have from what they mean, which shifts cancel, but changes of size and turns show: keypoints with an offset
  o make matches under a similarity A lie (I - A) o beside where they should. It is the o that explains the matches best. Wrong matches
  among the near ones make it smaller, and filters have offsets of their own, which are the opposite with all filters turned.

`inner` rows are without keypoints near the image's border: there the published code sees zeros beyond its map, and finds keypoints that
belong to the frame, not to what it shows. Where the camera stands still, such keypoints look right. In `light` pairs all is in its place;
`whole cells` are moved by a multiple of every level's cells besides, `between cells` by none. Every photo's figures are kept in --folder,
so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from d2net_warps import Image, for_rendering, output_size, render, views

from d2s.d2net.matching_accuracy import mutual_matches, transfer_errors
from d2s.features.d2net import pyramid
from d2s.features.d2net.network import D2Net
from d2s.features.d2net.preprocessing import normalise
from d2s.features.d2net.weight_files import load_into
from d2s.features.images import read_image
from d2s.scene.atomic import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "d2net_mma.json"
PHOTOS = {
    "fox": [f"fox/images/{number:04d}.jpg" for number in (1, 27, 46)],
    "gerrard_hall": [f"gerrard_hall/images/IMG_{number}.jpg" for number in (2331, 2364, 2400)],
    "redkitchen": [f"7scenes/redkitchen/seq-01/frame-{number:06d}.color.jpg" for number in (40, 430, 800)],
}
SCALES = {"single scale": (1.0,), "pyramid": pyramid.MULTISCALE}
LONGEST = {"single scale": 320, "pyramid": 176}  # longer side of the rendered images, pixels
RANDOM, TURNED = "random", ":turned"
MARGIN = 14  # pixels: beyond the border's cells and their offset
PUBLISHED_OFFSET = -2.0  # pixels of its level by which a published keypoint lies beside what it means
MMA_LIMITS = (1, 2, 3, 5)
NEAR = 8.0  # matches farther off are wrong ones
COORDINATES = ("corrected", "legacy")
GROUPS = {
    "all warps": ("shift", "scale", "turn", "tilt"),
    "shift": ("shift",),
    "scale": ("scale",),
    "turn": ("turn",),
    "tilt": ("tilt",),
    "light": ("light",),
    "light, whole cells": ("light, whole cells",),
    "light, between cells": ("light, between cells",),
}

Pair = dict[str, Any]


@dataclass(frozen=True)
class Photo:
    """A photo of a place; `seed` decides what is drawn for it."""

    place: str
    path: Path
    seed: int


@dataclass(frozen=True)
class Points:
    """Keypoints (N, 3) x, y, size of a pixel of their level; descriptors (N, 512)."""

    keypoints: np.ndarray
    descriptors: np.ndarray

    def inner(self, size: tuple[int, int], offset: float) -> Points:
        """Those that look at something further than MARGIN inside an image of (width, height)."""
        places = self.keypoints[:, :2] - offset * self.keypoints[:, 2:]
        kept = ((places >= MARGIN) & (places <= np.array(size) - 1 - MARGIN)).all(axis=1)
        return Points(self.keypoints[kept], self.descriptors[kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of fox, gerrard_hall and 7scenes/redkitchen")
    parser.add_argument("--more", nargs="*", default=[], metavar="PLACE=FILE", help="other photos")
    weights = f"checkpoints of D2-Net or VGG16; FILE{TURNED}: all filters by half a turn; {RANDOM}: by chance, which see contrast alone"
    parser.add_argument("--weights", nargs="*", default=[], help=f"for one scale: {weights}")
    parser.add_argument("--pyramid", nargs="*", default=[], help="the same for the pyramid")
    parser.add_argument("--folder", type=Path, required=True, help="of figures per photo")
    parser.add_argument("--kept", action="store_true", help="sum up the photos whose figures are there, measure no other")
    args = parser.parse_args()
    torch.set_num_threads(1)
    photos = photos_of(args.data, args.more)
    rows = {}
    for scales, names in (("single scale", args.weights), ("pyramid", args.pyramid)):
        found = {name: measured(name, scales, photos, args.folder, args.kept) for name in names}
        for name, by_photo in found.items():
            rows.update(summary(f"{titled(name)}, {scales}", list(by_photo.values())))
            if name.endswith(TURNED) and (straight := found.get(name.removesuffix(TURNED))):
                rows.update(geometry(f"{titled(name)} and not, {scales}", straight, by_photo))
    places = {photo.place: sum(other.place == photo.place for other in photos) for photo in photos}
    inputs = {"photos": places, "longest_px": LONGEST, "margin_px": MARGIN, "near_px": NEAR}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    write_json(RESULTS, {**inputs, "rows": rows, "versions": versions})
    print(table(rows))


def photos_of(data: Path, more: Sequence[str]) -> list[Photo]:
    """One of each place in turn, so that a run that was stopped has seen all."""
    named = [(place, data / names[turn]) for turn in range(3) for place, names in PHOTOS.items()]
    named += [(place, Path(file)) for place, _, file in (text.partition("=") for text in more)]
    return [Photo(place, path, seed) for seed, (place, path) in enumerate(named)]


def measured(weights: str, scales: str, photos: Sequence[Photo], folder: Path, kept: bool) -> dict[str, list[Pair]]:
    """The pairs of each photo, by its name."""
    network = None if kept else network_with(weights)
    pairs = {}
    for photo in photos:
        record = folder / f"{titled(weights)}, {scales}" / f"{photo.place} {photo.path.stem}.json"
        if network and not record.is_file():
            write_json(record, list(measure(network, scales, photo)))
            print(record.stem, flush=True)
        if record.is_file():
            pairs[record.stem] = read_json(record)
    return pairs


def titled(weights: str) -> str:
    turned = weights.endswith(TURNED)
    return Path(weights.removesuffix(TURNED)).stem + " turned" * turned


def network_with(weights: str) -> D2Net:
    network = D2Net().eval()
    if weights == RANDOM:
        generator = torch.Generator().manual_seed(2)
        for tensor in network.state_dict().values():
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.ndim == 4 else 0.01, generator=generator)
            if tensor.ndim == 4:
                tensor -= tensor.mean(dim=(1, 2, 3), keepdim=True)
    else:
        load_into(network, Path(weights.removesuffix(TURNED)))
    if weights.endswith(TURNED):
        for tensor in network.state_dict().values():
            tensor.copy_(tensor.flip(2, 3) if tensor.ndim == 4 else tensor)
    return network


def measure(network: D2Net, scales: str, photo: Photo) -> Iterator[Pair]:
    """A photo under each warp, in each way."""
    image = for_rendering(read_image(photo.path), LONGEST[scales])
    size = output_size(image)
    first = extract(network, render(image, np.eye(3)), scales)
    for view in views(image, np.random.default_rng(photo.seed)):
        other = extract(network, view.picture, scales)
        for way in COORDINATES:
            offset = PUBLISHED_OFFSET if way == "legacy" else 0.0
            one, two = first[way], other[way]
            for part, pair in (("all", (one, two)), ("inner", (one.inner(size, offset), two.inner(size, offset)))):
                yield {"coordinates": way, "part": part, "view": view.name, **compare(*pair, view.matrix)}


def extract(network: D2Net, image: Image, scales: str) -> dict[str, Points]:
    """Features of an image in both ways. The network sees the image's own size once."""
    ready = normalise(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], "caffe")
    points = {}
    with torch.inference_mode():
        dense = network(ready)
        for way in COORDINATES:
            (found,) = pyramid.extract(lambda x: dense.clone() if x is ready else network(x), ready, SCALES[scales], way)
            points[way] = Points(found.keypoints.numpy(), found.descriptors.numpy())
    return points


def compare(one: Points, two: Points, matrix: np.ndarray) -> Pair:
    rows, columns = mutual_matches(one.descriptors, two.descriptors).T
    places = one.keypoints[rows, :2].astype(np.float64), two.keypoints[columns, :2].astype(np.float64)
    errors = transfer_errors(*places, matrix)
    expected = cv2.perspectiveTransform(places[0][None], matrix)[0] if len(rows) else places[0]
    near = errors < NEAR
    return {
        "matrix": matrix[:2, :2].tolist(),
        "keypoints": len(one.keypoints),
        "matches": len(errors),
        "near": int(near.sum()),
        "beside": (places[1] - expected)[near].sum(axis=0).tolist(),
        "within": [int((errors <= limit).sum()) for limit in MMA_LIMITS],
    }


def summary(title: str, photos: Sequence[Sequence[Pair]]) -> dict[str, dict[str, Any]]:
    """A row per part of the keypoints, group of views and way; `gain`: of corrected over published coordinates."""
    rows = {}
    for part in ("all", "inner"):
        for group, kinds in GROUPS.items():
            chosen = {way: [select(pairs, way, part, kinds) for pairs in photos] for way in COORDINATES}
            for way, pairs in chosen.items():
                rows[f"{title}, {part}, {group}, {way}"] = row_of(pairs)
            shares = [np.stack([mma(pairs) for pairs in chosen[way]]) for way in COORDINATES]
            rows[f"{title}, {part}, {group}, gain"] = {"mma": by_limit(shares[0] - shares[1])}
        for way in COORDINATES:
            offsets = [offset_of(select(pairs, way, part, ("scale", "turn"))) for pairs in photos]
            rows[f"{title}, {part}, offset, {way}"] = {"px": spread(np.stack(offsets))}
    return rows


def geometry(title: str, straight: dict[str, list[Pair]], turned: dict[str, list[Pair]]) -> dict[str, dict[str, Any]]:
    """The offset without that of the filters, which is the opposite in turned ones, and the filters' own. Photos that both have seen."""
    rows = {}
    for way in COORDINATES:
        one, two = (np.stack([offset_of(select(of[name], way, "all", ("scale", "turn"))) for name in turned]) for of in (straight, turned))
        rows[f"{title}, all, offset, {way}"] = {"photos": len(one), "px": spread((one + two) / 2)}
        rows[f"{title}, all, offset of filters, {way}"] = {"photos": len(one), "px": spread((one - two) / 2)}
    return rows


def select(pairs: Sequence[Pair], way: str, part: str, kinds: Sequence[str]) -> list[Pair]:
    """`kinds`: whole names of views, or their first word."""
    chosen = (pair for pair in pairs if (pair["coordinates"], pair["part"]) == (way, part))
    return [pair for pair in chosen if pair["view"] in kinds or pair["view"].split()[0] in kinds]


def row_of(photos: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    def mean(key: str) -> float:
        return round(float(np.mean([pair[key] for pairs in photos for pair in pairs])), 1)

    counts = {"photos": len(photos), "pairs": sum(map(len, photos)), "keypoints": mean("keypoints"), "matches": mean("matches")}
    return {**counts, "mma": by_limit(np.stack([mma(pairs) for pairs in photos]))}


def mma(pairs: Sequence[Pair]) -> np.ndarray:
    """Mean of the shares of matches within each limit (L,)."""
    return np.mean([np.array(pair["within"]) / max(1, pair["matches"]) for pair in pairs], axis=0)


def by_limit(values: np.ndarray) -> dict[str, list[float]]:
    """Of values per photo (P, L): mean and its standard error for each limit, and in how many photos it is above 0."""
    means, errors = spread(values)
    above = (values > 0).sum(axis=0).tolist()
    return {str(limit): [means[k], errors[k], above[k]] for k, limit in enumerate(MMA_LIMITS)}


def spread(values: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean over photos (P, K) and its standard error."""
    errors = values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.full(values.shape[1], np.nan)
    return values.mean(axis=0).round(4).tolist(), errors.round(4).tolist()


def offset_of(pairs: Sequence[Pair]) -> np.ndarray:
    """The offset (2,) x, y of all keypoints that explains best where the matches of warped pairs lie."""
    sides = [(np.eye(2) - np.array(pair["matrix"])) * pair["near"] ** 0.5 for pair in pairs]
    values = [np.array(pair["beside"]) / max(1, pair["near"]) ** 0.5 for pair in pairs]
    return np.asarray(np.linalg.lstsq(np.concatenate(sides), np.concatenate(values), rcond=None)[0])


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: MMA in percent, corrected / published, with the gain and in how many photos there is one; then the offsets."""
    lines = [f"| | matches | {' | '.join(f'{limit} px' for limit in MMA_LIMITS)} |", "|---" * (2 + len(MMA_LIMITS)) + "|"]
    offsets = []
    for key, row in rows.items():
        title, _, way = key.rpartition(", ")
        if "px" in row:
            offsets.append(f"{key}: {', '.join(f'{mean:.2f} ± {error:.2f}' for mean, error in zip(*row['px'], strict=True))} px")
        elif way == "gain":
            pair = [rows[f"{title}, {other}"] for other in COORDINATES]
            cells = [gain_text(*(other["mma"][limit] for other in (*pair, row))) for limit in row["mma"]]
            counts = " / ".join(f"{other['matches']:.0f}" for other in pair)
            lines.append(f"| {title} | {counts} | {' | '.join(cells)} |")
    return "\n".join([*lines, *offsets])


def gain_text(corrected: Sequence[float], published: Sequence[float], gain: Sequence[float]) -> str:
    return f"{100 * corrected[0]:.1f} / {100 * published[0]:.1f} ({100 * gain[0]:+.1f} ± {100 * gain[1]:.1f}, {gain[2]})"


if __name__ == "__main__":
    main()
