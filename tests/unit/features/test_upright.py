"""Turned photos: features of the upright image, in pixels of the stored one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from d2s.features.base import LocalFeatures
from d2s.features.extraction import extract_all
from d2s.features.images import read_image
from d2s.features.sift import SiftExtractor
from d2s.features.upright import extract_upright, quarter_turns, turned_back

ORIENTATION = 0x0112


class BrightestPixel:
    """Finds the brightest pixel; remembers the sizes of the images that it was given."""

    name, descriptor_dim = "brightest", 2

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def settings(self) -> dict[str, object]:
        return {"name": self.name}

    def extract(self, images):
        self.shapes += [image.shape[:2] for image in images]
        return [self._one(image.reshape(*image.shape[:2], -1)[..., 0]) for image in images]

    @staticmethod
    def _one(gray):
        y, x = np.unravel_index(gray.argmax(), gray.shape)
        point = np.array([[x, y]], np.float32)
        return LocalFeatures(point, np.ones(1, np.float32), np.eye(2, dtype=np.float32)[:1], gray.shape[::-1])


def test_keypoints_come_back_to_the_stored_pixel():
    image = np.zeros((30, 40), np.uint8)
    image[7, 33] = 255
    extractor = BrightestPixel()
    found = extract_upright(extractor, [image] * 4, [0, 1, 2, 3])
    assert extractor.shapes == [(30, 40), (40, 30), (30, 40), (40, 30)]
    for features in found:
        assert features.keypoints.tolist() == [[33, 7]] and features.image_size == (40, 30)


def test_turning_there_and_back_is_nothing():
    features = BrightestPixel().extract([np.arange(12, dtype=np.uint8).reshape(3, 4)])[0]
    assert turned_back(features, 0) is features
    assert turned_back(features, 4) is features


def save(path, image, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(image).save(path, exif=exif)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_the_tag_means_what_viewers_make_of_it(tmp_path, orientation, turns):
    """PIL's exif_transpose is what viewers show."""
    from PIL import ImageOps

    stored = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    save(tmp_path / "a.png", stored, orientation)
    with Image.open(tmp_path / "a.png") as image:
        shown = np.asarray(ImageOps.exif_transpose(image))
    assert quarter_turns(tmp_path / "a.png") == turns == quarter_turns((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(np.rot90(stored, turns), shown)


def test_what_cannot_be_read_is_not_turned(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    assert quarter_turns(tmp_path / "a.jpg") == 0 and quarter_turns(tmp_path / "missing.jpg") == 0 and quarter_turns(b"") == 0
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PNG")
    assert quarter_turns(buffer.getvalue()) == 0


def test_files_are_looked_at_upright(tmp_path):
    """The same view stored in two ways: its descriptors agree, and its keypoints are those of the stored pixels."""
    texture = np.random.default_rng(1).integers(0, 255, (30, 40), np.uint8)
    upright = np.repeat(np.repeat(texture, 6, 0), 6, 1)
    save(tmp_path / "upright.png", upright, 1)
    save(tmp_path / "turned.png", np.ascontiguousarray(np.rot90(upright, 1)), 6)  # shown after a quarter turn clockwise
    extractor = SiftExtractor(name="sift", num_keypoints=50, device="cpu", weights=None, max_side=1600)
    found = dict(extract_all(extractor, [(name, tmp_path / name) for name in ("upright.png", "turned.png")]))
    straight, turned = found["upright.png"], found["turned.png"]
    np.testing.assert_array_equal(straight.descriptors, turned.descriptors)
    assert turned.image_size == (180, 240) == read_image(tmp_path / "turned.png").shape[1::-1]
    x, y = straight.keypoints.T
    np.testing.assert_allclose(turned.keypoints, np.stack([y, 239 - x], axis=1), atol=1e-4)
