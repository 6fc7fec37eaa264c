"""Observations read from images.bin as arrays are those that pycolmap reads."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest
from numpy.testing import assert_array_equal

from d2s.errors import FormatError
from processing.labels import point_table
from processing.sfm.observations import observed_points


@pytest.fixture
def model(tmp_path):
    """A synthetic model with keypoints that show nothing among those that do."""
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions(num_points3D=60, num_points2D_without_point3D=7)
    made = pycolmap.synthesize_dataset(options)
    made.write_binary(str(tmp_path))
    return made


def test_points_of_keypoints_are_pycolmaps(model, tmp_path):
    found = observed_points(tmp_path)
    assert set(found) == {image.name for image in model.images.values()}
    for image in model.images.values():
        expected = [point.point3D_id if point.has_point3D() else -1 for point in image.points2D]
        assert_array_equal(found[image.name], np.array(expected, dtype=np.int64))
    assert any((ids < 0).any() and (ids >= 0).any() for ids in found.values())


def test_labels_are_the_same_from_both(model, tmp_path):
    slow, fast = point_table(model), point_table(model, observed_points(tmp_path))
    for name, rows in slow.row_of_keypoint.items():
        assert_array_equal(fast.row_of_keypoint[name], rows)
    assert_array_equal(fast.angle_deg, slow.angle_deg)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_damaged_files_are_named(model, tmp_path, keep):
    path = tmp_path / "images.bin"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"images\.bin is damaged"):
        observed_points(tmp_path)
