"""The embedded demo: places rendered on the spot, with exact poses and cameras; a small gallery room unless another one is named."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import pycolmap

from d2s.errors import InputError, unknown_choice
from d2s.geometry.camera import make_camera
from d2s.scene.atomic import atomic_path, read_json, write_json
from d2s.scene.manifest import Scene, SceneImage
from processing.adapters.base import AdapterOptions, SceneSource
from processing.gallery.renderer import Image, Renderer
from processing.gallery.scenes import SCENES, RenderedScene
from processing.gallery.tour import Shot
from processing.progress import track

logger = logging.getLogger(__name__)

VERSION = 3  # of the pictures: raise it whenever the same settings give other pixels
SCENE = "gallery"


@dataclass(frozen=True)
class DemoSettings:
    """What decides how the demo looks. `size` is (width, height) in pixels."""

    mapping_images: int
    query_images: int
    size: tuple[int, int] = (640, 480)
    quality: int = 94
    seed: int = 0

    def __post_init__(self) -> None:
        values = {"mapping_images": self.mapping_images, "query_images": self.query_images, "width": self.size[0], "height": self.size[1]}
        for name, value in values.items():
            if value < 1:
                raise InputError(f"The demo's {name} must be at least 1, not {value}.")


def load(options: AdapterOptions) -> SceneSource:
    """The demo scene that `options.scene` names, gallery by default; renders it into `options.work_dir` unless all pictures are there.

    `options.extra` may set `mapping_images`, `query_images` and `size` (width, height). Pictures appear one by one, each by rename, so a
    killed rendering goes on where it stopped.
    """
    if options.work_dir is None:
        raise InputError("The demo needs a folder to render into.", "Give --out_dir.")
    name = options.scene or SCENE
    if name not in SCENES:
        raise unknown_choice("demo scene", name, SCENES)
    scene, settings = SCENES[name], _settings(options, SCENES[name])
    folder = Path(options.work_dir) / "images"
    plan, camera = scene.shots(settings.mapping_images, settings.query_images, settings.seed), make_demo_camera(settings.size)
    _prepare_folder(folder, {"scene": name, "version": VERSION, **asdict(settings), "size": list(settings.size)})
    _render_missing(folder, plan, camera, scene, settings)
    images = tuple(SceneImage(shot.name, camera.camera_id, shot.cam_from_world, shot.split) for shot in plan)
    provenance = {"source": f"rendered {scene.title}, exact poses", "version": VERSION, "seed": settings.seed}
    return SceneSource(Scene("demo", name, folder, {camera.camera_id: camera}, images, "metres", provenance=provenance))


def make_demo_camera(size: tuple[int, int]) -> pycolmap.Camera:
    """A camera with mild barrel distortion and a principal point off the middle, scaled to the image size."""
    width, height = size
    scale = width / 640
    return make_camera("SIMPLE_RADIAL", width, height, [520 * scale, 322.3 * scale, height / 2 - 3.2 * scale, -0.05])


def _settings(options: AdapterOptions, scene: RenderedScene) -> DemoSettings:
    given = {name: options.extra[name] for name in ("mapping_images", "query_images", "size") if name in options.extra}
    try:
        numbers: dict[str, Any] = {"mapping_images": scene.mapping_images, "query_images": scene.query_images}
        numbers |= {name: int(value) for name, value in given.items() if name != "size"}
        if "size" in given:
            width, height = given["size"]
            numbers["size"] = (int(width), int(height))
    except (TypeError, ValueError):
        raise InputError(f"The demo's settings must be whole numbers, size a pair of them, not {given}.") from None
    return DemoSettings(**numbers, seed=options.seed)


def _prepare_folder(folder: Path, record: dict[str, Any]) -> None:
    """Keep pictures made with the same settings; start anew otherwise."""
    stamp = folder / "rendering.json"
    if stamp.is_file() and read_json(stamp) == record:
        return
    for name in ("mapping", "query"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_json(stamp, record)


def _render_missing(folder: Path, plan: Sequence[Shot], camera: pycolmap.Camera, scene: RenderedScene, settings: DemoSettings) -> None:
    missing = [shot for shot in plan if not _is_complete(folder / shot.name)]
    if not missing:
        return
    for leftover in folder.glob("*/.*.tmp"):
        leftover.unlink()  # half a picture, of a rendering that was killed
    logger.info("Rendering %d of %d pictures of the demo's %s into %s", len(missing), len(plan), scene.title, folder)
    place = scene.make_place()
    renderer = Renderer(place, scene.make_textures(place, settings.seed), camera)

    def render(shot: Shot) -> None:
        _write_jpeg(folder / shot.name, renderer.render(shot.cam_from_world, shot.exposure), settings.quality)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in track(pool.map(render, missing), len(missing), "rendering"):
            pass


def _is_complete(path: Path) -> bool:
    """Whether a JPEG file is there to its last byte (its end marker)."""
    if not path.is_file() or path.stat().st_size < 4:
        return False
    with path.open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"


def _write_jpeg(path: Path, image: Image, quality: int) -> None:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise InputError(f"{path} cannot be written as JPEG.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
