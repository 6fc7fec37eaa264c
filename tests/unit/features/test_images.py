from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2s.errors import InputError
from d2s.features.images import check_image, image_size, read_image, shrink, to_gray, to_original, to_rgb

RED = (200, 30, 10)


def picture(width: int = 40, height: int = 30) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = RED
    image[: height // 2, : width // 2] = (0, 90, 250)
    return image


def encoded(suffix: str, image: np.ndarray | None = None) -> bytes:
    ok, data = cv2.imencode(suffix, (picture() if image is None else image)[..., ::-1])
    assert ok
    return data.tobytes()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_channels_are_red_green_blue(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encoded(suffix))
    image = read_image(path)
    assert image.shape == (30, 40, 3) and image.dtype == np.uint8
    assert np.abs(image[-3, -3].astype(int) - RED).max() < 25
    assert image_size(path) == (40, 30)


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees for display
    Image.fromarray(picture()).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "photo.jpg").shape == (30, 40, 3)
    assert image_size(tmp_path / "photo.jpg") == (40, 30)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full((8, 9), 51, np.uint8), (51, 51, 51)),
        (np.full((8, 9), 51 * 257, np.uint16), (51, 51, 51)),
        (np.full((8, 9, 3), (1000, 2570, 51400), np.uint16), (200, 10, 4)),
        (np.full((8, 9, 4), (3, 2, 1, 77), np.uint8), (1, 2, 3)),
    ],
)
def test_depth_and_channels_are_brought_to_rgb(array: np.ndarray, expected: tuple[int, int, int], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.png"), array)
    image = read_image(tmp_path / "photo.png")
    assert image.shape == (8, 9, 3) and np.abs(image[3, 3].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.98])
def test_truncated_file_is_one_clear_error(suffix: str, fraction: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    data = encoded(suffix, noise)
    (tmp_path / f"cut{suffix}").write_bytes(data[: int(len(data) * fraction)])
    with pytest.raises(InputError, match=f"cut{suffix}"):
        read_image(tmp_path / f"cut{suffix}")
    assert capfd.readouterr().err == ""  # OpenCV's own messages would drown the one line


def test_truncated_jpeg_with_a_whole_thumbnail_is_found_out(tmp_path: Path) -> None:
    """The end mark of the thumbnail in the metadata is not that of the photo."""
    buffer = io.BytesIO()
    Image.fromarray(picture(16, 12)).save(buffer, "jpeg")
    thumbnail = buffer.getvalue()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = encoded(".jpg")
    whole = data[:2] + segment + data[2:]
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert read_image(tmp_path / "whole.jpg").shape == (30, 40, 3)
    (tmp_path / "cut.jpg").write_bytes(whole[:-40])
    with pytest.raises(InputError, match=r"cut\.jpg is truncated"):
        read_image(tmp_path / "cut.jpg")


def test_jpeg_with_something_appended_is_read(tmp_path: Path) -> None:
    """Phones append videos to photos."""
    (tmp_path / "motion.jpg").write_bytes(encoded(".jpg") + b"\x00\xff\xda" + bytes(range(200)))
    assert read_image(tmp_path / "motion.jpg").shape == (30, 40, 3)


def test_missing_empty_and_wrong_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    for name, reason in (("missing.png", "does not exist"), ("empty.png", "is empty"), ("text.jpg", "corrupt or not an image")):
        with pytest.raises(InputError, match=f"{name}.*{reason}") as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=name):
            image_size(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)


def test_shrinking_never_enlarges_and_keeps_geometry() -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 57, 3), dtype=np.uint8)
    same, scale = shrink(image, 57)
    assert same is image and scale.tolist() == [1, 1]
    small, scale = shrink(image, 20)
    assert small.shape[:2] == (11, 20)
    fine, _ = shrink(image.astype(np.float32), 20)
    assert (small.dtype, fine.dtype) == (np.uint8, np.float32) and 0 < np.abs(fine - small).max() <= 0.5
    corners = np.array([[-0.5, -0.5], [19.5, 10.5]])  # the outer edges of both images coincide
    np.testing.assert_allclose(to_original(corners, scale), [[-0.5, -0.5], [56.5, 30.5]], atol=1e-5)


def test_gray_and_rgb() -> None:
    assert to_gray(picture())[-1, -1] == round(0.299 * 200 + 0.587 * 30 + 0.114 * 10)
    gray = to_gray(picture())
    assert to_gray(gray) is gray and to_rgb(gray).shape == (30, 40, 3)
    assert check_image(gray[:, :, None]).shape == (30, 40)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)])
def test_wrong_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match="must be"):
        check_image(wrong)
