"""The rows of `benchmarks/other_day.py`: which photos make the map, and which others ask.

A scene is preprocessed once, by the command that a user would type. Queries that are not among its own test images (changed photos,
rendered ones, photos of another folder) get a folder beside it: a manifest of the same map with other test images, and links to its files.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pycolmap
from numpy.typing import NDArray

from d2s.features.images import read_image
from d2s.geometry import pose
from d2s.geometry.alignment import Similarity, robust_similarity
from d2s.scene.atomic import atomic_path
from d2s.scene.manifest import Scene, SceneImage
from processing.adapters.base import AdapterOptions
from processing.adapters.colmap import model_pose
from processing.adapters.photos import load as load_photos
from processing.adapters.table import load_source

sys.path.insert(0, str(Path(__file__).parent))  # run as a script or loaded by a test: its neighbours are found either way
from accuracy import KITCHEN, Case, run
from changes import CHANGES, change
from other_light import MOVED, render_queries

Lists = tuple[list[str], list[str]]
"""Names of mapping images and of queries."""
QUALITY = 98
"""JPEG quality of the photos that are written: next to nothing is lost after the change itself."""


DEGENERATE = ("roma_B.jpg",)
"""Queries that the reference of sacre_coeur/ has no meaningful pose of: 58 points and a wild focal length."""


@dataclass(frozen=True)
class Row:
    """`case`: the map, in the words of accuracy.py; rows of one `place` share it. `split`: mapping images and queries of it (None: the data
    set's own). `asked`: takes the folders of the scene, of what asks and of the data, and makes the second (None: the scene's own test
    images ask). `camera`: whether that of the queries is known.
    """

    case: Case
    place: str
    split: Callable[[Scene], Lists] | None = None
    asked: Callable[[Path, Path, Path], None] | None = None
    camera: bool = True


def ends(scene: Scene, held_out: int = 100, margin: int = 30, mapped: int = 250, every: int = 5) -> Lists:
    """Both ends of the path ask, `held_out` frames each, every fifth of them; `margin` frames beside them are dropped, `mapped` of the rest
    make the map. Nothing in between is held out: no query lies between mapping images.
    """
    names = sorted(image.name for image in scene.images)
    middle = names[held_out + margin : len(names) - held_out - margin]
    chosen = np.unique(np.linspace(0, len(middle) - 1, min(mapped, len(middle))).round().astype(int))
    return [middle[i] for i in chosen], names[:held_out:every] + names[len(names) - held_out :: every]


def sides(scene: Scene, mapped: float, asked: tuple[float, float]) -> Lists:
    """Mapped from one side and asked from the other: along the axis in which the viewing directions differ most, the first share `mapped`
    of the photos makes the map, and those between the shares `asked` ask. What lies between is dropped, and what lies beyond.
    """
    images = sorted((image for image in scene.images if image.cam_from_world is not None), key=lambda image: image.name)
    directions = np.stack([image.cam_from_world[2, :3] for image in images if image.cam_from_world is not None])
    axis = np.linalg.svd(directions - directions.mean(axis=0), full_matrices=False)[2][0]
    axis *= np.sign(axis[np.argmax(np.abs(axis))])  # the same side first whatever the decomposition says
    order = np.argsort(directions @ axis, kind="stable")
    first, (begin, end) = round(mapped * len(order)), (round(share * len(order)) for share in asked)
    return sorted(images[i].name for i in order[:first]), sorted(images[i].name for i in order[begin:end])


def write_asked(folder: Path, target: Path, queries: Sequence[tuple[SceneImage, pycolmap.Camera]], image_dir: Path) -> None:
    """`target`: the scene in `folder` with other test images, which lie in `image_dir`, each with its camera (camera ids are given anew).

    The map's files are linked. Its photos are not below `image_dir`; whatever measures queries needs their features alone.
    """
    scene = Scene.load(folder)
    first = max(scene.cameras) + 1
    cameras = {first + number: camera for number, (_, camera) in enumerate(queries)}
    tests = [replace(image, camera_id=first + number, split="test") for number, (image, _) in enumerate(queries)]
    asked = replace(scene, image_dir=image_dir, cameras={**scene.cameras, **cameras}).with_images([*scene.split("train", "val"), *tests])
    target.mkdir(parents=True, exist_ok=True)
    for source in folder.iterdir():
        link = target / source.name
        if source.name != "scene.json" and not link.is_symlink():
            link.symlink_to(source.resolve())
    asked.save(target)


def changed_queries(name: str) -> Callable[[Path, Path, Path], None]:
    """The scene's own queries after one of CHANGES."""

    def make(folder: Path, target: Path, data_dir: Path) -> None:
        scene, queries = Scene.load(folder), []
        for image in scene.split("test"):
            pixels, camera = change(name, read_image(scene.path(image)), scene.camera(image), image.name)
            write_photo(target / "photos" / image.name, pixels)
            queries.append((image, camera))
        write_asked(folder, target, queries, target / "photos")

    return make


def rendered_queries(moved: dict[str, tuple[float, float, float]], lit: bool) -> Callable[[Path, Path, Path], None]:
    """The gallery's own queries, rendered with furniture `moved` or in other light."""

    def make(folder: Path, target: Path, data_dir: Path) -> None:
        scene = Scene.load(folder)
        queries = [(image, scene.camera(image)) for image in scene.split("test")]
        poses = {image.name: image.cam_from_world for image, _ in queries if image.cam_from_world is not None}
        for name, pixels in render_queries(poses, queries[0][1], moved, lit):
            write_photo(target / "photos" / name, pixels)
        write_asked(folder, target, queries, target / "photos")

    return make


def other_photos(folder: Path, target: Path, data_dir: Path) -> None:
    """The query photos of sacre_coeur/; their poses are those of the joint reconstruction, aligned by the mapping cameras.

    Their cameras are guesses, as for any photo without EXIF; a photo whose reference is degenerate has no pose, so it counts in no figure.
    """
    scene, reference = Scene.load(folder), data_dir / "sacre_coeur" / "reference"
    model = pycolmap.Reconstruction(reference)
    known = {image.name: model_pose(image, reference) for image in model.images.values()}
    mapped = {image.name: image.cam_from_world for image in scene.images if image.cam_from_world is not None and image.name in known}
    map_from_reference = aligned(np.stack([known[name] for name in mapped]), np.stack(list(mapped.values())))
    photos = load_photos(AdapterOptions(data_dir / "sacre_coeur" / "query", is_scene=True)).scene
    true = {name: map_from_reference.apply_pose(cam_from_world) for name, cam_from_world in known.items() if name not in DEGENERATE}
    queries = [(replace(image, cam_from_world=true.get(image.name)), photos.camera(image)) for image in photos.images]
    write_asked(folder, target, queries, photos.image_dir)


def aligned(source: NDArray[np.float64], target: NDArray[np.float64]) -> Similarity:
    """The similarity from one reconstruction's frame to another's by the cameras of both, cam_from_world (N, 3, 4).

    It turns as the cameras' rotations say, and takes scale and shift from the centres that agree: without known focal lengths, photos say
    well where a camera looked, and badly how far away one with a long lens stood.
    """
    u, _, vt = np.linalg.svd(np.einsum("nij,nik->jk", target[..., :3], source[..., :3]))
    rotation = u * [1.0, 1.0, np.linalg.det(u @ vt)] @ vt
    before, after = pose.center(source), pose.center(target)
    agreeing = robust_similarity(before, after)[1]
    a, b = (points[agreeing] - points[agreeing].mean(axis=0) for points in (before @ rotation.T, after))
    scale = float((a * b).sum() / (a * a).sum())
    return Similarity(scale, rotation, after[agreeing].mean(axis=0) - scale * rotation @ before[agreeing].mean(axis=0))


def write_photo(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels (H, W, 3) as the kind of file that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise OSError(f"{path} cannot be written as {path.suffix}.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())


FOX = Case("nerfstudio", "fox", "fox", "aliked", ("--test_every", "5"))
GERRARD = Case("colmap", "gerrard_hall", "gerrard_hall", "aliked")
GALLERY = Case("demo", "gallery", features="aliked")
SACRE_COEUR = Case("photos", "sacre_coeur", "sacre_coeur/mapping", "aliked")
ROWS: dict[str, Row] = {
    "redkitchen-day": Row(
        Case("colmap", "redkitchen_other_day", "redkitchen_other_day", "aliked", ("--units", "metres")), "redkitchen-day"
    ),
    "redkitchen-ends": Row(Case(*KITCHEN, "aliked", ("--gt", "original")), "redkitchen-ends", ends),
    "redkitchen-ends-sfm": Row(Case(*KITCHEN, "aliked", ("--gt", "sfm")), "redkitchen-ends-sfm", ends),
    "statue": Row(Case("colmap", "statue_of_liberty", "statue_of_liberty", "aliked"), "statue"),
    "reichstag": Row(Case("colmap", "reichstag", "reichstag", "aliked"), "reichstag"),
    "sacre-coeur": Row(SACRE_COEUR, "sacre-coeur", lambda scene: ([image.name for image in scene.images], []), other_photos, camera=False),
    "fox-side": Row(Case("nerfstudio", "fox", "fox", "aliked"), "fox-side", lambda scene: sides(scene, 0.2, (0.7, 1.0))),
    "gerrard-side": Row(GERRARD, "gerrard-side", lambda scene: sides(scene, 0.6, (0.62, 0.75))),
    "gallery-light": Row(GALLERY, "gallery", asked=rendered_queries({}, lit=True)),
    "gallery-moved": Row(GALLERY, "gallery", asked=rendered_queries(MOVED, lit=False)),
}
CHANGED = {"redkitchen-day": ROWS["redkitchen-day"].case, "statue": ROWS["statue"].case, "fox": FOX, "gerrard": GERRARD}
"""Real scenes whose queries are changed as well."""
ROWS |= {f"{place}-{name}": Row(case, place, asked=changed_queries(name)) for place, case in CHANGED.items() for name in CHANGES}


def prepare(name: str, row: Row, data_dir: Path, work: Path) -> Path:
    """Folder of the scene that asks, preprocessed; what is there is kept."""
    case, home = row.case, work / row.place
    folder = home / "dataset" / case.dataset / case.scene
    if not (folder / "scene.json").is_file():
        source = [] if case.dataset == "demo" else ["--dataset_dir", str(data_dir / case.source)]
        lists = [] if row.split is None else write_lists(row, data_dir, home)
        where = ["--dataset", case.dataset, "--scene", case.scene, "--out_dir", str(home / "dataset"), "--features", case.features]
        run(row.place, "preprocess", [*where, *source, *case.preprocess, *lists], work)
    if row.asked is None:
        return folder
    asked = home / "asked" / name
    if not (asked / "scene.json").is_file():
        row.asked(folder, asked, data_dir)
    return asked


def write_lists(row: Row, data_dir: Path, home: Path) -> list[str]:
    """Options that name the row's mapping images and queries, in files in the folder `home`."""
    case, options = row.case, dict(zip(row.case.preprocess[::2], row.case.preprocess[1::2], strict=True))
    found = load_source(case.dataset, AdapterOptions(data_dir / case.source, scene=case.scene, gt=options.get("--gt", "original"))).scene
    assert row.split is not None
    given = []
    home.mkdir(parents=True, exist_ok=True)
    for split, names in zip(("train", "test"), row.split(found), strict=True):
        if names:
            (home / f"list_{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            given.append(f"--list_{split}={home / f'list_{split}.txt'}")
    return given
