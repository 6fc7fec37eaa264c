"""Trust measured: photos of other places refused, recall lost to refusals, confidences against facts, errors against covariances.

Learns the constants of d2s/localization/trust.json from photos of the mapping recording, of other days, with simulated changes, and of
other places (--fit writes them; without it, those that are there are measured). Figures are those of constants that were learnt without the
measured place, all its models and photos: what a place that nobody has seen may expect. Beside them stand those of the shipped constants,
which have seen all places. Results go to benchmarks/results/trust.json and into the tables of docs/trust_figures.md and
docs/max_wrong.md.

    python benchmarks/trust.py --other_day benchmark_runs [--only statue fox …] [--fit]     # the folder of benchmarks/other_day.py
    python benchmarks/trust.py --runs benchmark_runs [--fit]                                # the folder of benchmarks/accuracy.py
    python benchmarks/trust.py --pair SCENE_FOLDER MODEL_FOLDER [--pair …] [--fit]

Collecting takes about 0.2 s an image, and some 2 s more where the first answer is not sure. What --work holds is used again (remove a
place's rows to collect them anew); `--again` uses all that it holds, and collects nothing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import chi2

from d2s.errors import InputError
from d2s.evaluation.reliability import expected_calibration_error, reliability_bins, wilson
from d2s.localization.calibration import Observation, calibrate
from d2s.localization.risk import LEAST, conditions_from_json, confidence_for
from d2s.localization.signals import SIGNALS
from d2s.localization.trust import Calibration, Constants, general_constants
from d2s.localization.trust import probability as logistic_of
from d2s.scene.atomic import read_json, write_json, write_text

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
import accuracy
import trust_data
from other_day import train
from other_day_data import prepare
from page import replaced
from trust_data import CONDITIONS, ELSEWHERE, ROWS, SAME, UNMAPPED, Photos, Place, collect, load_other_day, load_place
from trust_sides import FAR, SIDES

RESULTS = Path(__file__).parent / "results" / "trust.json"
CONSTANTS = Path(trust_data.__file__).parents[1] / "d2s" / "localization" / "trust.json"
PAGE = Path(__file__).parents[1] / "docs" / "trust_figures.md"
RISK_PAGE = PAGE.with_name("max_wrong.md")
BEGIN, END = "<!-- benchmarks/trust.py -->\n", "<!-- end -->"
PENALTY = 0.3
"""Weight of the squared weights in the fit: signals say the same thing twice, and rows number hundreds."""
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7)
"""Lower ones are never taken: a pose that is rather wrong than right is no answer, and there are places more alike than those that
constants were learnt on."""
ALLOWED_FALSE_ACCEPTS = 0.005
"""Share of other places' photos, poses that are no more than chance among them, that may be accepted while learning."""
SUPPORTED = 30
"""Inliers from which on a wrong pose in the right place is one at a look-alike: its support says nothing against it."""
ALIKE_PENALTY = 0.01
"""Weight of the squared constants of look-alikes: few photos show any."""
AGAINST = ("residual", "angle")
"""Signals that can only speak against a pose; the others only for it. A fit to few places must not learn the opposite."""
CLOSE_DEGREES = 5.0
DRIFTING = "redkitchen-ends"
"""A place that is left out: its given poses are those of a tracker, which drift by 2 to 3 degrees from one end of the path to the other.
What is wrong there are not the poses that are found, and no signal can tell. The same photos are asked with better poses, as
redkitchen-ends-sfm.
"""
PARTS = ("shipped", "unseen_place")
FAST = "fast"
"""Where first answers stand in the report; all else is of answers after trying harder, as users have them by default."""
POOL = f"this place ({', '.join(name for name in CONDITIONS if name != ELSEWHERE)})"
RISKS = (0.1, 0.05, 0.02, 0.01)
"""Shares of wrong poses that the page tells the price of."""
DRAWS = 1000
"""Of facts that agree with all confidences: their calibration error is what so few photos have by chance alone."""
OWN = "own place"
OWN_COLUMNS = ("own place: recall", "wrong poses")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Collect, fit where asked, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("SCENE", "MODEL"), help="preprocessed scene, its model")
    parser.add_argument("--runs", type=Path, help="work folder of benchmarks/accuracy.py: all its rows that have a model")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows of --runs to take")
    parser.add_argument("--work", type=Path, default=Path("benchmark_runs/trust"), help="features and rows (default: benchmark_runs/trust)")
    parser.add_argument("--other_day", type=Path, help="work folder of benchmarks/other_day.py: all its places that have a model")
    parser.add_argument("--data_dir", type=Path, help="the photos, to map the further sides of benchmarks/trust_sides.py as well")
    parser.add_argument("--most", type=int, default=60, help="mapping images of each place at most, validation first (default: 60)")
    parser.add_argument("--others", type=int, default=24, help="photos of each other place at most (default: 24)")
    parser.add_argument(
        "--alike", nargs="+", default=[], metavar="DATASET/SCENE", help="places whose models see more of each other's photos"
    )
    parser.add_argument("--again", action="store_true", help="use the rows that --work holds, whatever places they are of")
    parser.add_argument("--fit", action="store_true", help="write new constants")
    args = parser.parse_args(argv)
    rows = collected(args.work) if args.again else collect_all(places_of(args), args)
    unmapped = [row for row in rows if row["condition"] == UNMAPPED]
    rows = [row for row in rows if row["condition"] != UNMAPPED]
    constants = fit(rows) if args.fit else general_constants()
    if args.fit:
        found = {"conditions": conditions(rows), "learnt_from": about(rows)}
        write_json(CONSTANTS, {"signals": list(SIGNALS), **asdict(constants), **found})
    report = {"machine": accuracy.machine(), **measure(rows, constants), "alike": look_alikes(rows, constants, args.alike)}
    report["unmapped"] = unmapped_side(rows, unmapped, constants)
    write_json(RESULTS, report)
    write_text(PAGE, with_table(PAGE.read_text(encoding="utf-8"), report))
    write_text(RISK_PAGE, replaced(RISK_PAGE.read_text(encoding="utf-8"), BEGIN, END, risk_table(report["max_wrong"])))
    print(describe(report))
    return 0


def places_of(args: argparse.Namespace) -> list[Place]:
    """The pairs of the command line. Raises InputError when there are fewer than two places: each is the other's negative."""
    found = [load_place(Path(scene), Path(model), Path(model).parent.name, args.work) for scene, model in args.pair]
    for model in sorted(args.runs.glob("*/logs/*/model")) if args.runs else ():
        row = model.parents[2]
        if row.name == model.parent.name and (not args.only or row.name in args.only):
            found += [load_place(folder.parent, model, row.name, args.work) for folder in row.glob("dataset/*/*/scene.json")]
    for name, row in (SIDES | FAR).items() if args.other_day and args.data_dir else ():
        prepare(name, row, args.data_dir.resolve(), args.other_day.resolve())
        if not (args.other_day / row.place / "logs" / "seed0" / "model").is_dir():
            train(row, args.other_day.resolve() / row.place, args.other_day.resolve(), 0)
    for home in sorted({args.other_day / row.place for row in ROWS.values()} - {args.other_day / DRIFTING}) if args.other_day else ():
        if (home / "logs" / "seed0" / "model").is_dir() and (not args.only or home.name in args.only):
            found.append(load_other_day(home))
    if len({place.where for place in found}) < 2:
        raise InputError(f"{len(found)} models of fewer than two places: there are no photos of other places.", "Name more with --pair.")
    return found


def collect_all(places: Sequence[Place], args: argparse.Namespace) -> list[Row]:
    """Rows of all models; those of each model are counted as they come, and kept."""
    photos, rows = Photos(args.work), list[Row]()
    for place in places:
        path = args.work / f"rows-{place.name}.json"
        if not path.is_file():
            write_json(path, collect(places, place, photos, args.most, args.others, args.alike))
        new = read_json(path)
        rows += new
        print(f"{place.name}: {len(new)} photos, {sum(row['found'] for row in new)} with a pose", flush=True)
    return rows


def collected(work: Path) -> list[Row]:
    """Rows of all models that a folder holds."""
    return [row for path in sorted(work.glob("rows-*.json")) for row in read_json(path)]


def is_right(row: Row) -> bool:
    """Whether a row's pose is within its tolerance; a pose in another place is wrong."""
    return observation(row, 0.0).is_right(*row["tolerance"])


def after_effort(rows: Sequence[Row]) -> list[Row]:
    """The rows with the answers that trying harder ended with."""
    return [{**row, **(row.get("effort") or {})} for row in rows]


def is_close(row: Row) -> bool:
    """Whether a row's pose is within 5 cm or 5 % of the extent, and 5 degrees: the recall that refusals may not cost."""
    return observation(row, 0.0).is_right(row["close"], CLOSE_DEGREES)


def observation(row: Row, score: float) -> Observation:
    """A row as calibration sees it."""
    difference, covariance = (None if row.get(key) is None else np.array(row[key]) for key in ("difference", "covariance"))
    return Observation(score, difference, covariance, row["signals"][SIGNALS.index("residual")] if "signals" in row else math.nan)


def is_own(row: Row) -> bool:
    """Whether a photo is of the model's own place."""
    return bool(row["where"] == row["shown"])


def fit(rows: Sequence[Row]) -> Constants:
    """Constants from rows of several places, with the threshold that keeps other places out."""
    return rounded(replace(logistic(rows), threshold=choose_threshold(rows)))


def logistic(rows: Sequence[Row]) -> Constants:
    """Both factors of the probability from rows with a pose, as users get them by default, and the factor of covariances without a
    calibration.
    """
    found = [row for row in after_effort(rows) if "signals" in row]
    plain = [row for row in found if not is_alike(row)]
    signals, right = np.array([row["signals"] for row in plain]), np.array([is_right(row) for row in plain])
    start = Constants(tuple(signals.mean(axis=0)), tuple(signals.std(axis=0) + 1e-6), (), 0.0, (0.0, 0.0), THRESHOLDS[0], 1.0)
    bounds = [(None, 0) if name in AGAINST else (0, None) for name in SIGNALS] + [(None, None)]
    penalties = [PENALTY] * len(SIGNALS) + [0.0]
    values = most_likely(np.column_stack([start.standardise(signals), np.ones(len(signals))]), right, bounds, penalties)
    constants = replace(start, weights=tuple(values[:-1].tolist()), bias=float(values[-1]), factor=general_factor(found))
    return replace(constants, alike=alike_of([row for row in found if is_own(row)], constants))


def is_alike(row: Row) -> bool:
    """Whether a pose is wrong though the image supports it: at another storey, aisle or door of the same place."""
    return is_own(row) and not is_right(row) and bool(row["inliers"] >= SUPPORTED)


def alike_of(own: Sequence[Row], constants: Constants) -> tuple[float, float]:
    """Of poses in the right place that the default does not refuse: how doubt tells right ones from those at look-alikes."""
    kept = [row for row in own if constants.evidence(np.array(row["signals"])) >= 0]
    doubts, right = np.array([row["doubt"] for row in kept]), np.array([is_right(row) for row in kept])
    values = most_likely(np.column_stack([np.ones(len(kept)), -doubts]), right, [(None, None), (0, None)], [ALIKE_PENALTY] * 2)
    return float(values[0]), float(values[1])


def most_likely(
    inputs: NDArray[np.float64], right: NDArray[np.bool_], bounds: Sequence[tuple[float | None, float | None]], penalties: Sequence[float]
) -> NDArray[np.float64]:
    """Logistic regression within bounds: the values v (K,) for which logistic(inputs (N, K) . v) says best who is right (N,)."""

    def loss(values: NDArray[np.float64]) -> float:
        odds = inputs @ values
        return float(np.logaddexp(0, np.where(right, -odds, odds)).sum() + np.array(penalties) @ values**2 / 2)

    return np.asarray(minimize(loss, np.zeros(len(bounds)), method="L-BFGS-B", bounds=bounds).x)


def rounded(constants: Constants) -> Constants:
    """Six digits are more than such a fit has."""
    lists = {name: tuple(round(float(v), 6) for v in getattr(constants, name)) for name in ("mean", "scale", "weights")}
    alike = round(constants.alike[0], 6), round(constants.alike[1], 6)
    return Constants(**lists, bias=round(constants.bias, 6), alike=alike, threshold=constants.threshold, factor=round(constants.factor, 4))


def choose_threshold(rows: Sequence[Row]) -> float:
    """The lowest that keeps other places out, by constants that know neither place: whoever wants surer poses asks for a higher one."""
    others = [row for row in after_effort(rows) if not is_own(row)]
    accepted = np.array([p for row, p in unseen(rows, others, evidence)])
    kept_out = [threshold for threshold in THRESHOLDS if (accepted >= threshold).mean() <= ALLOWED_FALSE_ACCEPTS]
    return kept_out[0] if kept_out else THRESHOLDS[-1]


def probability(row: Row, constants: Constants, calibration: Calibration = Calibration()) -> float:  # noqa: B008  # frozen
    """Confidence of a row; 0 without a pose."""
    return 0.0 if "signals" not in row else logistic_of(constants.score(np.array(row["signals"]), row["doubt"]) + calibration.shift)


def evidence(row: Row, constants: Constants) -> float:
    """What the default refusal goes by; 0 without a pose."""
    return 0.0 if "signals" not in row else logistic_of(constants.evidence(np.array(row["signals"])))


def general_factor(found: Sequence[Row]) -> float:
    """Median over models of what standard deviations by the residuals have to be multiplied with; within a recording, as calibrations."""
    same = [row for row in found if row["condition"] == SAME]
    factors = [error_factor(own) for own in by_model(same).values() if len(own) >= 3]
    return float(np.median([factor for factor in factors if factor is not None])) if factors else 1.0


def by_model(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of photos of the model's own place that were not mapped from, by model."""
    models = sorted({row["model"] for row in rows})
    return {name: [row for row in rows if row["model"] == name and is_own(row) and is_query(row)] for name in models}


def is_query(row: Row) -> bool:
    """Whether a photo is what a user may ask: not one that the map was made from."""
    return not is_own(row) or bool(row["split"] != "train")


def normalised(rows: Sequence[Row], calibration: Calibration | None = None, factor: float = 1.0) -> NDArray[np.float64]:
    """Squared errors in units of the covariance (N,), chi-square with 6 degrees of freedom if that is right; of right poses."""
    values = []
    for row in rows:
        if row.get("covariance") is not None and is_right(row):
            extra = np.zeros(6) if calibration is None else np.repeat([calibration.r**2, calibration.t**2], 3)
            difference = np.array(row["difference"])
            values.append(difference @ np.linalg.solve(factor**2 * np.array(row["covariance"]) + np.diag(extra), difference))
    return np.array(values)


def error_factor(rows: Sequence[Row], calibration: Calibration | None = None, factor: float = 1.0) -> float | None:
    """How many times larger the median error is than stated; 1 where covariances are right."""
    values = normalised(rows, calibration, factor)
    return math.sqrt(float(np.median(values)) / chi2.median(6)) if len(values) else None


def about(rows: Sequence[Row]) -> dict[str, Any]:
    """What constants were learnt from."""
    poses = [row for row in rows if "signals" in row]
    return {
        "models": sorted({row["model"] for row in rows}),
        "images": len(rows),
        "poses": len(poses),
        "right": sum(is_right(row) for row in poses),
        "other_places": sum(not is_own(row) for row in rows),
    }


def conditions(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Of photos of the place and of other places, how many were asked, and the confidences of wrong poses by constants that never saw
    their place: of the first answer or the one after trying harder, whichever does more harm. Photos of the place are pooled: those of one
    condition are too few to speak for a wrong pose in a hundred.
    """
    queries = [row for row in rows if is_query(row)]
    first, last = (unseen(rows, answers, harm) for answers in (queries, after_effort(queries)))
    harms: dict[str, list[float]] = {}
    for (row, before), (_, after) in zip(first, last, strict=True):
        harms.setdefault(POOL if is_own(row) else ELSEWHERE, []).append(max(before, after))
    return {name: {"photos": len(one), "wrong": counted(one)} for name, one in sorted(harms.items(), reverse=True)}


def harm(row: Row, constants: Constants) -> float:
    """The confidence of a wrong pose, 0 of any other row."""
    return probability(row, constants) if row["found"] and not is_right(row) else 0.0


def counted(harms: Sequence[float]) -> list[float]:
    """Those that `d2s.localization.risk.Condition` holds."""
    return sorted((round(p, 6) for p in harms if p >= LEAST), reverse=True)


def price(rows: Sequence[Row]) -> dict[str, Any]:
    """For each of RISKS that the photos can speak for the confidence to ask for, and what poses it leaves of each condition's photos."""
    known = conditions_from_json(conditions(rows), "conditions")
    scored = unseen(rows, after_effort([row for row in rows if is_query(row)]), probability)
    names = [name for name in CONDITIONS if any(row["condition"] == name for row, _ in scored)]
    prices = {}
    for share in (share for share in RISKS if share >= max(one.smallest for one in known)):
        least = confidence_for(share, known)
        given = [(row, row["found"] and p >= least) for row, p in scored]
        by_condition = {name: left([(row, kept) for row, kept in given if row["condition"] == name]) for name in names}
        prices[f"{share:g}"] = {"confidence": least, **by_condition}
    return prices


def left(given: Sequence[tuple[Row, bool]]) -> dict[str, float]:
    """Shares of photos with a close pose and with a wrong one, of those with a note whether their pose is given."""
    rows = [row for row, kept in given if kept]
    return {"close": sum(map(is_close, rows)) / len(given), "wrong": sum(not is_right(row) for row in rows) / len(given)}


def measure(rows: Sequence[Row], constants: Constants) -> dict[str, Any]:
    """All figures: of the shipped constants, and of constants that never saw the place."""
    calibrations = {name: calibration_of(own, constants) for name, own in by_model(rows).items()}
    first = [row for row in rows if is_query(row)]
    queries = after_effort(first)

    def parts(asked: Sequence[Row]) -> dict[str, Any]:
        shipped = [(row, probability(row, constants, calibrations[row["model"]])) for row in asked]
        judged = [(row, evidence(row, constants)) for row in asked]
        stranger, judged_stranger = (unseen(rows, asked, what) for what in (probability, evidence))
        figures_of = figures(shipped, judged, constants.threshold), figures(stranger, judged_stranger, constants.threshold)
        return dict(zip(PARTS, figures_of, strict=True))

    return {
        "constants": asdict(constants),
        "learnt_from": about(rows),
        "measured_on": about(queries),
        "calibrations": {name: asdict(calibration) for name, calibration in calibrations.items()},
        **parts(queries),
        FAST: parts(first),
        "max_wrong": price(rows),
        "covariance": {name: covariance_figures(own, calibrations[name], constants) for name, own in by_model(queries).items()},
        "stated": {name: stated(queries, name, calibrations, constants) for name in CONDITIONS if name != ELSEWHERE},
    }


def look_alikes(rows: Sequence[Row], constants: Constants, alike: Collection[str]) -> dict[str, Any]:
    """Of all photos of the places `alike`, shown to models of the others: how many have a pose, and how many are accepted by the constants
    and by such as never saw any of these places. Poses that are no more than chance count as found: it is those that are learnt from.
    """
    shown = [row for row in after_effort(rows) if not is_own(row) and {row["where"], row["shown"]} <= set(alike)]
    rest = [row for row in rows if not {row["where"], row["shown"]} & set(alike)]
    stranger = logistic(rest) if shown else constants
    accepted, unseen_places = (sum(evidence(row, one) >= constants.threshold for row in shown) for one in (constants, stranger))
    found = sum("signals" in row for row in shown)
    return {"places": sorted(alike), "photos": len(shown), "poses": found, "accepted": accepted, "accepted_unseen": unseen_places}


def unmapped_side(rows: Sequence[Row], unmapped: Sequence[Row], constants: Constants) -> dict[str, Any]:
    """Right and wrong poses, with and without refusals, of photos of a side that was not mapped, after trying harder."""
    asked = after_effort(unmapped)
    judged = [(row, evidence(row, constants)) for row in asked], unseen(rows, asked, evidence)
    return {part: own_place(scored, constants.threshold) for part, scored in zip(PARTS, judged, strict=True)}


def calibration_of(own: Sequence[Row], constants: Constants) -> Calibration:
    """The record that a training would end with: from the validation images."""
    rows = [row for row in own if row["split"] == "val"]
    scores = [constants.score(np.array(row["signals"]), row["doubt"]) if row["found"] else -math.inf for row in rows]
    none = Observation(-math.inf, None, None)
    seen = [observation(row, score) if row["found"] else none for row, score in zip(rows, scores, strict=True)]
    return calibrate(seen, *own[0]["tolerance"])


def unseen(learn: Sequence[Row], rows: Sequence[Row], what: Callable[[Row, Constants], float]) -> list[tuple[Row, float]]:
    """Rows with `what` constants say that were learnt without the model's place, neither its models nor its photos."""
    scored = []
    for where in sorted({row["where"] for row in rows}):
        rest = [row for row in learn if where not in (row["where"], row["shown"])]
        if any(is_own(row) for row in rest):
            constants = logistic(rest)
            scored += [(row, what(row, constants)) for row in rows if row["where"] == where]
    return scored


def figures(scored: Sequence[tuple[Row, float]], judged: Sequence[tuple[Row, float]], threshold: float) -> dict[str, Any]:
    """Refusals and reliability; queries with their confidence (`scored`), and with what the default refusal goes by (`judged`)."""
    own = [(row, p) for row, p in judged if is_own(row)]
    return {
        "other_places": {"all": other_places(judged, threshold), **_each("model", judged, other_places, threshold)},
        "own_place": {
            "all": own_place(own, threshold),
            **_each("model", own, own_place, threshold),
            **_each("condition", own, own_place, threshold),
        },
        "thresholds": {f"{t:g}": [other_places(judged, t)["share"], own_place(own, t)["lost"]] for t in (0.1, 0.3, 0.5, 0.7, 0.9)},
        "reliability": {
            OWN: reliability([(row, p) for row, p in scored if is_own(row)]),
            **{name: reliability([(row, p) for row, p in scored if row["condition"] == name]) for name in CONDITIONS},
            "everything": reliability(scored),
        },
    }


def _each(key: str, scored: Sequence[tuple[Row, float]], what: Any, threshold: float) -> dict[str, Any]:
    names = sorted({row[key] for row, _ in scored})
    return {name: what([(row, p) for row, p in scored if row[key] == name], threshold) for name in names}


def other_places(scored: Sequence[tuple[Row, float]], threshold: float) -> dict[str, Any]:
    """Photos of other places that were accepted; `poses`: how many would be without a threshold, `at_most`: 95 % bound of the share."""
    others = [(row, p) for row, p in scored if not is_own(row)]
    accepted, n = sum(row["found"] and p >= threshold for row, p in others), len(others)
    share = accepted / n if n else 0.0
    return {
        "photos": n,
        "poses": sum(row["found"] for row, _ in others),
        "accepted": accepted,
        "share": share,
        "at_most": wilson(share, n)[1] if n else 1.0,
    }


def own_place(scored: Sequence[tuple[Row, float]], threshold: float) -> dict[str, Any]:
    """Recall with and without refusals, of right poses and of close ones; wrong poses before and after."""
    found = np.array([row["found"] for row, _ in scored], dtype=bool)
    right, close = (np.array([row["found"] and test(row) for row, _ in scored], dtype=bool) for test in (is_right, is_close))
    accepted = found & (np.array([p for _, p in scored]) >= threshold)
    n = max(len(scored), 1)
    return {
        "photos": len(scored),
        "recall_without": right.sum() / n,
        "recall": (right & accepted).sum() / n,
        "lost": (right & ~accepted).sum() / n,
        "close_recall_without": close.sum() / n,
        "close_recall": (close & accepted).sum() / n,
        "close_lost": (close & ~accepted).sum() / n,
        "wrong_without": int((found & ~right).sum()),
        "wrong": int((accepted & ~right).sum()),
    }


def reliability(scored: Sequence[tuple[Row, float]]) -> dict[str, Any]:
    """Bins and calibration error of the poses that were found, and the mean and 95 % bound of what perfect confidences have by chance."""
    found = [(is_right(row), p) for row, p in scored if row["found"]]
    if not found:
        return {"poses": 0, "ece": 0.0, "bins": [], "ece_by_chance": 0.0, "ece_by_chance_at_most": 0.0}
    confidence, right = np.array([p for _, p in found]), np.array([right for right, _ in found], dtype=bool)
    bins = reliability_bins(confidence, right)
    draws = np.random.default_rng(0).random((DRAWS, len(found))) < confidence
    chance = [expected_calibration_error(reliability_bins(confidence, drawn)) for drawn in draws]
    about_chance = {"ece_by_chance": float(np.mean(chance)), "ece_by_chance_at_most": float(np.quantile(chance, 0.95))}
    return {"poses": len(found), "ece": expected_calibration_error(bins), "bins": bins, **about_chance}


def covariance_figures(own: Sequence[Row], calibration: Calibration, constants: Constants) -> dict[str, Any]:
    """Median error over stated error by residuals alone, with the general factor, and with the place's calibration; and how many errors
    lie within the 95 % ellipsoid as it is stated in the end, so much wider, and as it would be without.
    """
    calibrated = normalised(own, calibration) if calibration.images else normalised(own, None, constants.factor)
    return {
        "poses": len(calibrated),
        "residuals_alone": error_factor(own),
        "general_factor": error_factor(own, None, constants.factor),
        "calibrated": error_factor(own, calibration) if calibration.images else None,
        "within_95": _share_within(widened(own, calibration, constants)),
        "within_95_not_widened": _share_within(calibrated),
    }


def widened(own: Sequence[Row], calibration: Calibration, constants: Constants) -> NDArray[np.float64]:
    """Squared errors of one model's right poses (N,) in units of the covariance as it is stated in the end."""
    known = [row for row in own if row.get("covariance") is not None and is_right(row)]
    times = np.array([calibration.widening(row["signals"][SIGNALS.index("residual")]) for row in known])
    return (normalised(known, calibration) if calibration.images else normalised(known, None, constants.factor)) / times**2


def stated(queries: Sequence[Row], name: str, calibrations: Mapping[str, Calibration], constants: Constants) -> dict[str, Any]:
    """Of right poses of one condition: median error over stated one, and how many errors lie within the 95 % ellipsoid."""
    models = by_model([row for row in queries if row["condition"] == name])
    squared = np.concatenate([np.zeros(0), *(widened(own, calibrations[model], constants) for model, own in models.items())])
    error = math.sqrt(float(np.median(squared)) / chi2.median(6)) if len(squared) else None
    return {"poses": len(squared), "error_over_stated": error, "within_95": _share_within(squared)}


def _share_within(squared: NDArray[np.float64]) -> float | None:
    """Share of squared errors in units of the covariance that lie within its 95 % ellipsoid."""
    return float((squared <= chi2.ppf(0.95, 6)).mean()) if len(squared) else None


def describe(report: dict[str, Any]) -> str:
    """The table."""
    lines = []
    for name in PARTS:
        part = report[name]
        lines.append(f"{name}: threshold {report['constants']['threshold']:g}")
        for name, own in part["own_place"].items():
            others = part["other_places"].get(name, {"accepted": 0, "photos": 0, "poses": 0})
            lines.append(
                f"  {name:<22} other places: {others['accepted']}/{others['photos']} accepted ({others['poses']} before); own: recall "
                f"{100 * own['close_recall_without']:.1f} -> {100 * own['close_recall']:.1f} %, "
                f"wrong {own['wrong_without']} -> {own['wrong']}"
            )
        lines += [f"  ECE {100 * one['ece']:.1f} % of {one['poses']} poses: {which}" for which, one in part["reliability"].items()]
    for model, one in report["covariance"].items():
        lines.append(f"covariance of {model}: {one}")
    return "\n".join(lines)


def with_table(text: str, report: dict[str, Any]) -> str:
    """The page with the table of a report between its two marks."""
    return replaced(text, BEGIN, END, table(report))


def table(report: dict[str, Any]) -> str:
    """The page's tables: one row per model, one per condition."""
    columns = ("model", "photos of other places", "accepted", *OWN_COLUMNS, "error / stated", "within the 95 % ellipsoid")
    rows = [_table_row(name, report) for name in ("all", *report["covariance"])]
    known = [name for name in CONDITIONS if name in report["shipped"]["own_place"]]
    by_condition = [_condition_row(name, name, report) for name in known]
    by_condition = [(*row, _stated(report["stated"][name])) for name, row in zip(known, by_condition, strict=True)]
    by_condition += [(*_condition_row(f"{name}, first answers", name, report[FAST]), "") for name in known]
    first, new = (report[FAST][part]["other_places"]["all"] for part in PARTS)
    others = f"{first['accepted']} ({new['accepted']}) of {first['photos']}"
    return (
        _lines((columns, ("---",) * len(columns), *rows))
        + "\n"
        + _lines((("photos", *OWN_COLUMNS, "calibration error", "by chance", "within the 95 % ellipsoid"), ("---",) * 6, *by_condition))
        + f"\nThreshold {report['constants']['threshold']:g}. Accepted, recall and wrong poses: without refusals → with them (in brackets: "
        "by constants that never saw the place).\n"
        "Recall within 5 cm, or 5 % of the extent, and 5°. Calibration error: by how much confidence and share of right poses differ on "
        "average; by chance:\nthat of perfect confidences (in brackets: one draw in twenty has more), which so few photos cannot do better "
        f"than.\nBy first answers, {others} photos of other places are accepted.\n"
        + _alike_line(report["alike"])
        + _unmapped_line(report["unmapped"])
    )


def risk_table(prices: dict[str, Any]) -> str:
    """What each share costs."""
    own = [name for name in CONDITIONS if name != ELSEWHERE and all(name in one for one in prices.values())]
    head = ("`--max_wrong`", "confidence asked for", *own, "photos of other places accepted")
    rows = [
        (share, f"{one['confidence']:.3f}", *(_of_both(one[name]) for name in own), _percent(one[ELSEWHERE]["wrong"]))
        for share, one in prices.items()
    ]
    return _lines((head, ("---",) * len(head), *rows))


def _of_both(shares: dict[str, float]) -> str:
    return f"{100 * shares['close']:.1f}, {100 * shares['wrong']:.1f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _condition_row(label: str, name: str, report: dict[str, Any]) -> tuple[str, ...]:
    shipped, new = (report[part]["reliability"][name] for part in PARTS)
    chance = f"{100 * new['ece_by_chance']:.1f} ({100 * new['ece_by_chance_at_most']:.1f}) %"
    return label, *_own_cells(name, report), f"{100 * shipped['ece']:.1f} ({100 * new['ece']:.1f}) %", chance


def _own_cells(name: str, report: dict[str, Any]) -> tuple[str, str]:
    """Recall and wrong poses."""
    own, new = (report[part]["own_place"][name] for part in PARTS)
    return (
        f"{100 * own['close_recall_without']:.1f} → {100 * own['close_recall']:.1f} ({100 * new['close_recall']:.1f}) %",
        f"{own['wrong_without']} → {own['wrong']} ({new['wrong']}) of {own['photos']}",
    )


def _alike_line(alike: dict[str, Any]) -> str:
    return (
        f"Places that look alike: of {alike['photos']} photos of one, shown to models of the other, {alike['poses']} have a pose;\n"
        f"{alike['accepted']} are accepted ({alike['accepted_unseen']} by constants that saw neither place).\n"
    )


def _stated(one: dict[str, Any]) -> str:
    return "" if one["within_95"] is None else f"{100 * one['within_95']:.0f} %, error / stated {one['error_over_stated']:.2f}"


def _unmapped_line(unmapped: dict[str, Any]) -> str:
    own, new = (unmapped[part] for part in PARTS)
    right = round(own["recall"] * own["photos"])
    return (
        "Photos of a side that was not mapped, of a building that looks alike from behind, stand in no other figure:\n"
        f"of {own['photos']}, {right} get a right pose and {own['wrong_without']} → {own['wrong']} ({new['wrong']}) a wrong one.\n"
    )


def _table_row(name: str, report: dict[str, Any]) -> tuple[str, ...]:
    others, new = (report[part]["other_places"][name] for part in PARTS)
    covariance = report["covariance"].get(name)
    errors = ("", "")
    if covariance is not None and covariance["poses"]:
        errors = f"{covariance['calibrated'] or covariance['general_factor']:.2f}", f"{100 * covariance['within_95']:.0f} %"
    accepted = f"{others['poses']} → {others['accepted']} ({new['accepted']})"
    return name, str(others["photos"]), accepted, *_own_cells(name, report), *errors


if __name__ == "__main__":
    sys.exit(main())
