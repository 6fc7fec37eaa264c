"""Where the public data sets live, under which licence, and what has to be fetched by hand."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Item:
    """Something to download. `target` is relative to DATASET_DIR: a folder made of one zip archive, or a text file joined of several.

    `sha256` is None where the publisher states no checksum: then the first download's is recorded and later ones are compared with it.
    """

    urls: tuple[str, ...]
    target: str
    sha256: str | None = None

    @property
    def is_archive(self) -> bool:
        """Whether there is something to unpack."""
        return self.urls[0].endswith(".zip")


@dataclass(frozen=True)
class ByHand:
    """Something without a link that a program may follow (a page with a form, a file host that wants a browser)."""

    what: str
    page: str
    target: str


@dataclass(frozen=True)
class Source:
    """A data set: scene -> what to download for it, what is left to do by hand, and under which terms."""

    title: str
    page: str
    licence: str
    scenes: dict[str, tuple[Item, ...]] = field(default_factory=dict)
    by_hand: tuple[ByHand, ...] = ()


_SEVEN_SCENES = "https://download.microsoft.com/download/2/8/5/28564B23-0828-408F-8631-23B1EFF1DAC8"
_PSEUDO_GT = "https://raw.githubusercontent.com/tsattler/visloc_pseudo_gt_limitations/main/pgt"
_TWELVE_SCENES = "http://graphics.stanford.edu/projects/reloc/data"
_CAMBRIDGE = "https://www.repository.cam.ac.uk/bitstream/handle/1810"
_DRIVE = "https://drive.google.com/file/d"


def _pseudo_gt(dataset: str, scene: str, folder: str) -> tuple[Item, ...]:
    """Both pseudo ground truths of Brachmann et al. (ICCV 2021), whose training and test halves become one file."""
    return tuple(
        Item(tuple(f"{_PSEUDO_GT}/{kind}/{dataset}/{scene}_{half}.txt" for half in ("train", "test")), f"{folder}/pgt_{kind}.txt")
        for kind in ("sfm", "dslam")
    )


def _seven_scenes(scene: str) -> tuple[Item, ...]:
    folder = f"7scenes/{scene}"
    return (Item((f"{_SEVEN_SCENES}/{scene}.zip",), folder), *_pseudo_gt("7scenes", scene, folder))


def _twelve_scenes(place: str, room: str) -> tuple[Item, ...]:
    images = Item((f"{_TWELVE_SCENES}/{place}.zip",), f"12scenes/{place}")  # one archive for all rooms of a place
    return (images, *_pseudo_gt("12scenes", f"{place}_{room}", f"12scenes/{place}/{room}"))


def _cambridge(scene: str, handle: int) -> tuple[Item, ...]:
    return (Item((f"{_CAMBRIDGE}/{handle}/{scene}.zip",), f"Cambridge/{scene}"),)


_ROOMS = {
    "apt1": ("kitchen", "living"),
    "apt2": ("bed", "kitchen", "living", "luke"),
    "office1": ("gates362", "gates381", "lounge", "manolis"),
    "office2": ("5a", "5b"),
}
_HANDLES = {"KingsCollege": 251342, "OldHospital": 251340, "StMarysChurch": 251294, "ShopFacade": 251336, "GreatCourt": 251291}

SOURCES: dict[str, Source] = {
    "7scenes": Source(
        "7-Scenes (Shotton et al., CVPR 2013)",
        "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
        "Microsoft Research licence, non-commercial, see its page; the pseudo ground truths are under the same",
        {scene: _seven_scenes(scene) for scene in ("chess", "fire", "heads", "office", "pumpkin", "redkitchen", "stairs")},
        (ByHand("SfM models with test lists", f"{_DRIVE}/1cu6KUR7WHO7G4EO49Qi3HEKU6n_yYDjb", "7scenes/7scenes_sfm_triangulated"),),
    ),
    "12scenes": Source(
        "12-Scenes (Valentin et al., 3DV 2016)",
        "http://graphics.stanford.edu/projects/reloc/",
        "for non-commercial research, see its page; the pseudo ground truths are under the same",
        {f"{place}_{room}": _twelve_scenes(place, room) for place, rooms in _ROOMS.items() for room in rooms},
        (ByHand("SfM models", f"{_DRIVE}/1u5du-cYp3J3-BfybZVkhvgv0PPua8tud", "12scenes/12scenes_sfm_triangulated"),),
    ),
    "Cambridge": Source(
        "Cambridge Landmarks (Kendall et al., ICCV 2015)",
        "https://www.repository.cam.ac.uk/items/53788265-cb98-42ee-b85b-7a0cbc8eddb3",
        "for research, see its page",
        {scene: _cambridge(scene, handle) for scene, handle in _HANDLES.items()},
        (
            ByHand(
                "retriangulated models (CambridgeLandmarks_Colmap_Retriangulated_1024px.zip)",
                f"{_DRIVE}/1esqzZ1zEQlzZVic-H32V6kkZvc4NeS15",
                "Cambridge/CambridgeLandmarks_Colmap_Retriangulated_1024px",
            ),
        ),
    ),
    "indoor6": Source(
        "Indoor-6 (Do et al., CVPR 2022)",
        "https://github.com/microsoft/SceneLandmarkLocalization",
        "see its page",
        by_hand=(
            ByHand("images, one archive per scene", "https://github.com/microsoft/SceneLandmarkLocalization", "indoor6/SCENE"),
            ByHand(
                "COLMAP models of all scenes (colmap.zip)",
                f"{_DRIVE}/1oMo552DYo2U5Fvjm5MrTYPMqpMjXEf7m",
                "indoor6/indoor6_sfm_triangulated",
            ),
        ),
    ),
    "BKC": Source(
        "BKC Ritsumeikan (Bui et al., RA-L 2024)",
        "https://github.com/ais-lab/d2s",
        "see its page",
        by_hand=(ByHand("images and COLMAP model", f"{_DRIVE}/1XEdnrFTzThruG15pW2A_1jYAxtpYbwq5", "BKC"),),
    ),
}
