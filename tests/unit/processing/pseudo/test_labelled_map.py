from __future__ import annotations

import numpy as np
import pytest

from d2s.errors import InputError
from d2s.scene.label_store import Labels, write_labels
from processing.pseudo.labelled_map import read_map


def labels(xyz, valid):
    xyz = np.asarray(xyz, np.float32)
    return Labels(xyz, np.asarray(valid, bool), np.full(len(xyz), 4, np.int32), np.abs(xyz[:, 0]))


def test_equal_coordinates_are_one_point(tmp_path):
    a = labels([[0.1, 2, 3], [0, 0, 0], [7, 8, 9]], [1, 0, 1])
    b = labels([[7, 8, 9], [0.1, 2, 3.0000002], [0.1, 2, 3]], [1, 1, 1])
    write_labels(tmp_path / "labels.h5", [("a", a), ("b", b), ("c", labels([[1, 1, 1]], [0]))])
    found = read_map(tmp_path / "labels.h5", ["a", "b", "c", "not labelled"])
    assert len(found) == 3
    assert set(found.point_of_row) == {"a", "b", "c"}
    for name, one in (("a", a), ("b", b)):
        point = found.point_of_row[name]
        assert ((point >= 0) == one.valid).all()
        assert (found.xyz[point[one.valid]] == one.xyz[one.valid]).all()
        assert (found.error[point[one.valid]] == one.error[one.valid]).all()
    assert found.point_of_row["a"][0] == found.point_of_row["b"][2] != found.point_of_row["b"][1]
    back = found.labels(found.point_of_row["b"], np.ones(3, np.float32), np.ones(3, np.int32))
    assert back.xyz.tobytes() == b.xyz.tobytes()


def test_map_without_labels_is_an_error(tmp_path):
    write_labels(tmp_path / "labels.h5", [("a", labels([[1, 2, 3]], [0]))])
    with pytest.raises(InputError, match="no labels to transfer"):
        read_map(tmp_path / "labels.h5", ["a"])
