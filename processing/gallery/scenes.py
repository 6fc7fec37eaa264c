"""The places that the demo can render, by the name of the scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from processing.gallery.museum import make_museum
from processing.gallery.museum_textures import make_museum_textures
from processing.gallery.museum_tour import museum_shots
from processing.gallery.noise import Image
from processing.gallery.room import Place, Room, make_room
from processing.gallery.stairs import make_stairs
from processing.gallery.stairs_textures import make_stairs_textures
from processing.gallery.stairs_tour import stairs_shots
from processing.gallery.textures import make_textures
from processing.gallery.tour import Shot, shots


@dataclass(frozen=True)
class RenderedScene:
    """One place: `shots` takes the numbers of mapping images and of queries (whose defaults are given) and a seed."""

    title: str
    make_place: Callable[[], Room | Place]
    make_textures: Callable[[Room | Place, int], list[Image]]
    shots: Callable[[int, int, int], list[Shot]]
    mapping_images: int
    query_images: int


SCENES: dict[str, RenderedScene] = {
    "gallery": RenderedScene("gallery room", make_room, make_textures, shots, 150, 40),
    "stairs": RenderedScene("staircase of four storeys that look alike", make_stairs, make_stairs_textures, stairs_shots, 240, 60),
    "museum": RenderedScene("museum of eleven rooms", make_museum, make_museum_textures, museum_shots, 1000, 150),
}
