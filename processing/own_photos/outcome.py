"""The end of `d2s map`: facts from the files of the stages, the verdict, `map.json`, and the model where it is easy to find."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from d2s.evaluation.evaluation import METRICS, REPORT, read_scores
from d2s.evaluation.pose_files import RESULTS
from d2s.geometry.camera import format_camera
from d2s.scene.atomic import atomic_path, read_json, write_json
from d2s.scene.manifest import Scene
from processing.own_photos.held_out import capture_order
from processing.own_photos.scale_words import scale_sentence
from processing.own_photos.verdict import Facts, advice, headline, report_lines, weak_parts
from processing.sfm.doubts import doubtful
from processing.sfm.hinges import loose_parts
from processing.sfm.links import shared_points, weak_links
from processing.sfm.model_files import read_model

MAP, MODEL, RUN, HELD_OUT = "map.json", "model", "run", "held_out.txt"
FORMAT_VERSION = 1


def finish(out: Path, scene_dir: Path, check: Path, about: Mapping[str, Any]) -> list[str]:
    """Write `map.json` and publish the model; gives what to tell the user, line by line."""
    scene, report = Scene.load(scene_dir), read_json(scene_dir / "report.json")
    listed = out / HELD_OUT
    facts = gather(scene, scene_dir, check, report, listed.read_text(encoding="utf-8").split("\n") if listed.is_file() else ())
    weak, scale = weak_parts(facts), scale_sentence(scene, report["sfm"].get("world") or {})
    publish_model(out)
    metrics = read_json(check / METRICS) if facts.scores else {}
    write_json(out / MAP, _content(facts, weak, scale, report, metrics, about))
    return ["", *report_lines(facts, weak, scale), "", *_where(out, facts)]


def gather(scene: Scene, scene_dir: Path, check: Path, report: Mapping[str, Any], held_out: Sequence[str] = ()) -> Facts:
    """What the finished stages know."""
    dropped = {image["name"]: image["reason"] for image in report["images"]["dropped"]}
    lost = [name for name in dropped if (scene.image_dir / name).is_file()]
    ordered = capture_order(scene.image_dir, [*(image.name for image in scene.images), *lost])
    whole = scene_dir / "sfm_all"  # with the held-out photos: a gap that we made ourselves is no weakness of the photos
    model = read_model(whole if whole.is_dir() else scene_dir / "sfm")
    in_model = {image.name for image in model.images.values()}
    linked = [name for name in ordered if name in in_model]
    links = weak_links(shared_points(model, linked), linked)
    poses = {image.name: image.cam_from_world for image in scene.images if image.cam_from_world is not None}
    facts = Facts(
        scene=scene,
        scores=read_scores(check, scene.split("test")) if (check / RESULTS).is_file() else (),
        labels={image["name"]: image["labels"] for image in report["images"]["kept"] if image["labels"] is not None},
        links=links,
        dropped=dropped,
        ordered=ordered,
        held_out=held_out,
    )
    if not whole.is_dir():  # given poses are not ours to doubt
        return facts
    hinges = loose_parts(model, linked, facts.tolerance / facts.extent)
    return replace(facts, doubts=doubtful(links, ordered, poses), hinges=hinges)


def publish_model(out: Path) -> None:
    """The run's model as `out/model`."""
    with atomic_path(out / MODEL) as temporary:
        shutil.copytree(out / RUN / MODEL, temporary)


def _content(
    facts: Facts,
    weak: Sequence[Mapping[str, Any]],
    scale: str,
    report: Mapping[str, Any],
    metrics: Mapping[str, Any],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `map.json`."""
    scene = facts.scene
    cameras = {
        str(index): {"camera": format_camera(camera), "photos": sum(image.camera_id == index for image in scene.images)}
        for index, camera in scene.cameras.items()
    }
    origin = scene.provenance.get("intrinsics", {})
    return {
        "format_version": FORMAT_VERSION,
        **about,
        "photos": {
            "given": facts.given,
            "placed": len(scene.images),
            "held_out": [image.name for image in scene.split("test")],
            "dropped": [{"name": name, "reason": reason} for name, reason in facts.dropped.items()],
        },
        "cameras": {index: {**camera, "focal_from": origin.get(index)} for index, camera in cameras.items()},
        "scale": {"units": scene.units, "extent": facts.extent, "text": scale, **(report["sfm"].get("world") or {})},
        "check": {
            "verdict": " ".join(headline(facts)),
            "queries": len(facts.scores),
            "found": sum(score.success for score in facts.scores),
            "within_tolerance": sum(map(facts.good, facts.scores)),
            "tolerance": facts.tolerance,
            **{key: metrics.get(key) for key in ("median_t", "median_t_relative", "median_r_deg", "map_bytes", "train_seconds", "ms")},
        },
        "doubtful": [{**asdict(hinge), "part": list(hinge.part)} for hinge in facts.hinges],
        "weak": [dict(entry) for entry in weak],
        "advice": advice(weak, facts),
        "stages": dict(report["seconds"]),
        "model": MODEL,
        "report": f"check/{REPORT}" if facts.scores else None,
    }


def _where(out: Path, facts: Facts) -> list[str]:
    lines = [f"Model:  {out / MODEL}", f"Facts:  {out / MAP}"]
    lines += [f"Report: {out / 'check' / REPORT}"] if facts.scores else []
    return [*lines, "", f"Next: d2s localize --model {out / MODEL} --image NEW_PHOTO.jpg"]
