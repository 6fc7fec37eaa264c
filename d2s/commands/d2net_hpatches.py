"""Mean matching accuracy on HPatches: a row per feature, extracted here or read from files; a table, a JSON file and a plot."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2s.commands.d2net_options import add_extraction, make_d2net
from d2s.commands.device import choose_device
from d2s.commands.options import flag
from d2s.d2net.hpatches import LARGE, PlanarSequence, read_hpatches, write_image_list
from d2s.d2net.hpatches_evaluation import Result, evaluate, table, write_results
from d2s.d2net.hpatches_plot import plot
from d2s.d2net.hpatches_rows import ExtractedHere, FromFiles, Row, check_names
from d2s.errors import InputError, unknown_choice
from d2s.features.base import Extractor
from d2s.features.d2net.pyramid import MULTISCALE
from d2s.features.table import FEATURES, make_extractor

log = logging.getLogger(__name__)

# Names of --features that are D2-Net with options of their own, in place of those of the command
D2NET: dict[str, dict[str, Any]] = {
    "d2net": {},
    "d2net-ms": {"scales": MULTISCALE},
    "d2net-legacy": {"coordinates": "legacy"},
    "d2net-ms-legacy": {"scales": MULTISCALE, "coordinates": "legacy"},
}
NAMES = (*D2NET, *(name for name in FEATURES if name not in D2NET))
OTHERS_KEYPOINTS = 5000
"""Per image, of features that are not D2-Net; about as many as it finds on HPatches."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `d2s d2net hpatches`."""
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the sequences, i_* and v_*")
    names = f"rows that are extracted here: {', '.join(NAMES)} (default: d2net, if --extracted and --image_list are not given)"
    parser.add_argument("--features", nargs="+", default=[], metavar="NAME", help=names)
    files = "rows of npz files beside the images, made by another program: .d2-net for 1.ppm.d2-net"
    parser.add_argument("--extracted", nargs="+", default=[], metavar="NAME=EXTENSION", help=files)
    parser.add_argument("--top_k", type=int, nargs="+", default=[], metavar="N", help="rows with the best N keypoints per image, too")
    left_out = "sequences to leave out, or none (default: the eight large ones that papers leave out)"
    parser.add_argument("--exclude", nargs="*", default=list(LARGE), metavar="SEQUENCE", help=left_out)
    output = "folder of features/, hpatches.json and hpatches.png; features there are used again (default: hpatches_results)"
    parser.add_argument("--output", type=Path, default=Path("hpatches_results"), help=output)
    parser.add_argument("--image_list", type=Path, default=None, metavar="FILE", help="write the paths of all images, for other extractors")
    flag(parser, "--overwrite", False, "extract again what is in --output")
    add_extraction(parser, several_models=True)


def run(args: argparse.Namespace) -> int:
    """Extract what is missing, match, measure."""
    sequences = read_hpatches(args.dataset_dir, args.exclude)
    if args.image_list:
        log.info("Wrote %d paths to %s", write_image_list(args.image_list, sequences), args.image_list)
    rows = _rows(args)
    if rows:
        _evaluate(rows, sequences, args)
    return 0


def _evaluate(rows: list[Row], sequences: list[PlanarSequence], args: argparse.Namespace) -> None:
    if any(count < 1 for count in args.top_k):
        raise InputError(f"--top_k must be at least 1, not {min(args.top_k)}.")
    device = str(choose_device(args.cudaid))
    results: list[Result] = []
    for row in rows:
        results += evaluate(row, sequences, args.top_k, device)
    args.output.mkdir(parents=True, exist_ok=True)
    write_results(args.output / "hpatches.json", results, args.exclude)
    plot(args.output / "hpatches.png", results)
    log.info("Share of mutual nearest neighbours within some pixels, in percent, mean over image pairs\n%s", table(results))
    log.info("Wrote %s and hpatches.png", args.output / "hpatches.json")


def _rows(args: argparse.Namespace) -> list[Row]:
    """All of them before the first is extracted, so that wrong options and missing weights end the command at once."""
    features = args.features or ([] if args.extracted or args.image_list else ["d2net"])
    extractors = [pair for name in features for pair in _extractors(name, args)]
    files = [_from_files(text) for text in args.extracted]
    check_names([*(name for name, _ in extractors), *(row.name for row in files)])
    cache = args.output / "features"
    return [*(ExtractedHere(name, extractor, cache, args.overwrite) for name, extractor in extractors), *files]


def _extractors(name: str, args: argparse.Namespace) -> Iterator[tuple[str, Extractor]]:
    """Row names and extractors of one of --features: D2-Net once with each model file, the others once."""
    if name not in NAMES:
        raise unknown_choice("feature", name, NAMES)
    if name not in D2NET:
        count = args.max_keypoints or OTHERS_KEYPOINTS
        yield name, make_extractor(name, count, str(choose_device(args.cudaid)), max_side=args.max_edge)
        return
    for model in args.model_file:
        title = f"{name} {model.stem}" if len(args.model_file) > 1 else name
        yield title, make_d2net(argparse.Namespace(**{**vars(args), "model_file": model, **D2NET[name]}))


def _from_files(text: str) -> FromFiles:
    name, _, extension = text.partition("=")
    if not name or not extension:
        raise InputError(f"--extracted takes NAME=EXTENSION, not {text!r}.", "For example: published=.d2-net")
    return FromFiles(name, extension)
