"""What each part of an answer is worth on another day: one part off, or in another form, at a time.

The rows are those of `benchmarks/other_day.py` that ask real photos with known cameras, prepared and trained in the same --work folder.
First answers, none refused, so that only the named part differs. Writes benchmarks/results/other_day_parts.json and the table of
docs/experiments.md; what is measured again replaces the old figures.

    python benchmarks/other_day_parts.py --data_dir DIR [--work DIR] [--only statue …] [--parts "no second look" …]
    python benchmarks/other_day_parts.py --page
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray

from d2s.features.base import LocalFeatures
from d2s.localization.effort import Effort
from d2s.localization.localizer import Localizer
from d2s.localization.result import LocalizationResult
from d2s.matching.nearest import mutual_nearest_neighbors
from d2s.regressor.landmark_map import LandmarkMap
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import TrainedModel, load_model, model_bytes
from d2s.scene.atomic import read_json, write_json

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
from accuracy import machine
from other_day import METHODS, Asked, Locate, Method, ask, of_features, read_row, train
from other_day_data import ROWS, Row
from other_day_table import brief, describe
from page import replaced

RESULTS = Path(__file__).parent / "results" / "other_day_parts.json"
PAGE = Path(__file__).parents[1] / "docs" / "experiments.md"
BEGIN, END = "<!-- benchmarks/other_day_parts.py -->\n", "<!-- end -->"
ASKED = ("redkitchen-day", "redkitchen-ends-sfm", "statue", "reichstag", "fox-side", "gerrard-side")
VIEWS = 20


class NoSecondLook(Localizer):
    """The first pose is the answer."""

    def _look_again(
        self, result: LocalizationResult, features: LocalFeatures, landmarks: LandmarkMap, camera: pycolmap.Camera
    ) -> LocalizationResult:
        return result


class OwnMatches(Localizer):
    """The second look forgets the first matches."""

    def _look_again(
        self, result: LocalizationResult, features: LocalFeatures, landmarks: LandmarkMap, camera: pycolmap.Camera
    ) -> LocalizationResult:
        return super()._look_again(replace(result, used=np.zeros_like(result.used)), features, landmarks, camera)


class MoreInliers(Localizer):
    """The second look has its say only where at least as many keypoints agree with it."""

    def _look_again(
        self, result: LocalizationResult, features: LocalFeatures, landmarks: LandmarkMap, camera: pycolmap.Camera
    ) -> LocalizationResult:
        again = super()._look_again(result, features, landmarks, camera)
        return again if again.num_inliers >= result.num_inliers else result


class ByViews(Localizer):
    """The first matches are the mutual nearest neighbours with each of the mapping images that the comparison with all votes for."""

    def predict(self, features: LocalFeatures, times: int = 1) -> tuple[LocalFeatures, NDArray[np.float32], NDArray[np.float32]]:
        """As without views, but with their matches in place of all."""
        features, xyz, _ = super().predict(features, times)
        landmarks, views = self.landmarks(), self.info.views
        assert views is not None
        described = landmarks.describe(features.descriptors)
        shown = mutual_nearest_neighbors(described, landmarks.descriptors)[:, 1].astype(np.int64)
        reliability = np.zeros(len(features), np.float32)
        for number in reversed(views.most_alike(shown, VIEWS)):  # the best has the last word
            seen = views.seen(number)
            rows, columns = mutual_nearest_neighbors(described, landmarks.descriptors[seen]).T
            xyz[rows], reliability[rows] = landmarks.xyz[seen[columns]], 1.0
        return features, xyz, reliability


class OneDescriptor(Localizer):
    """Of points with several descriptors only the mean counts, which is the first."""

    def __init__(self, regressor: TrainedModel, **options: Any) -> None:
        assert isinstance(regressor.network, LandmarkNet)
        landmarks = regressor.network.landmarks
        _, owner = np.unique(landmarks.xyz.numpy(), axis=0, return_inverse=True)
        first = torch.from_numpy(np.sort(np.unique(owner, return_index=True)[1]))
        landmarks.codes, landmarks.xyz = landmarks.codes[first], landmarks.xyz[first]
        super().__init__(regressor, **options)


@dataclass(frozen=True)
class Part:
    """`kind`: the localizer; `options`: further ones of `d2s train`; `threshold`: the reliability below which keypoints do not count."""

    kind: type[Localizer] = Localizer
    options: tuple[str, ...] = ()
    threshold: float | None = None

    def method(self) -> Method:
        """First answers, none refused."""
        return Method(self._make)

    def _make(self, asked: Asked) -> tuple[Locate, int]:
        localizer = self.kind(load_model(asked.model), threshold=self.threshold, min_confidence=0.0, effort=Effort("fast"))
        return of_features(localizer), model_bytes(asked.model)


PARTS: dict[str, Part] = {
    "as it is": Part(),
    "no second look": Part(NoSecondLook),
    "a second look that forgets the first matches": Part(OwnMatches),
    "a second look only where as many keypoints agree": Part(MoreInliers),
    "only keypoints of reliability above 0.3": Part(threshold=0.3),
    f"first matches from {VIEWS} views": Part(ByViews),
    "one descriptor for each point": Part(OneDescriptor),
    "10,000 landmarks": Part(options=("--set", "model.landmarks=10000")),
    "40,000 landmarks": Part(options=("--set", "model.landmarks=40000")),
    "attention, trained for a minute": Part(options=("--set", "model.blocks=2", "--set", "training.n_iters=200")),
}
BESIDE = ("matching", "landmarks at once")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the chosen parts on the chosen rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the table into docs/experiments.md")
    parser.add_argument("--data_dir", type=Path, help="folder with redkitchen_other_day/, statue_of_liberty/, fox/ and the others")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs"), help="where other_day.py put its scenes and runs")
    parser.add_argument("--only", nargs="+", choices=ASKED, default=ASKED, metavar="ROW", help=f"rows (default: {', '.join(ASKED)})")
    names = (*BESIDE, *PARTS)
    parts_help = f"parts (default: all): {', '.join(names)}"
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="PART", help=parts_help)
    args = parser.parse_args(argv)
    if not args.page:
        if args.data_dir is None:
            parser.error("--data_dir is needed to measure")
        for name in args.only:
            figures = measure(name, ROWS[name], args.data_dir.resolve(), args.work.resolve(), args.parts)
            rows = read_json(RESULTS)["rows"] if RESULTS.is_file() else {}
            figures["methods"] = {**rows.get(name, {}).get("methods", {}), **figures["methods"]}
            write_json(RESULTS, {"machine": machine(), "rows": {**rows, name: figures}})
            print(describe(name, figures), flush=True)
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), BEGIN, END, table(read_json(RESULTS)["rows"])), encoding="utf-8")
    return 0


def measure(name: str, row: Row, data_dir: Path, work: Path, parts: Sequence[str]) -> dict[str, Any]:
    """Figures of the named parts on one row."""
    asked, images, about = read_row(name, row, data_dir, work)
    found = {}
    for key in parts:
        method = METHODS[key] if key in BESIDE else PARTS[key].method()
        options = () if key in BESIDE else PARTS[key].options
        one = replace(asked, model=train(row, work / row.place, work, options)) if options else asked
        found[key] = ask(method, one, images, row.camera, (0,))
    return {**about, "methods": found}


def table(rows: Mapping[str, Any]) -> str:
    """A line for every part, a column for every row of the bench."""
    order = [name for name in ASKED if name in rows]
    lines = [("", *order), ("---",) * (1 + len(order))]
    for part in (*BESIDE, *PARTS):
        lines.append((part, *(brief(rows[name], part) for name in order)))
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
