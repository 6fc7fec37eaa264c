from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from d2s.errors import InputError, MissingPackageError, WeightsError
from d2s.features.table import FEATURES, extractor_from_settings, make_extractor
from d2s.features.weights import WEIGHTS


def test_the_promised_names_are_there() -> None:
    assert list(FEATURES) == ["superpoint", "superpoint-open", "sift", "disk", "aliked", "xfeat", "d2net"]
    assert all(spec.weights is None or spec.weights in WEIGHTS for spec in FEATURES.values())


def test_the_table_is_light() -> None:
    code = "import sys, d2s.features.table; sys.exit(any(m in sys.modules for m in ('torch', 'kornia', 'cv2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_extractor("surf"), "Unknown feature 'surf'. Choose one of: superpoint, superpoint-open, sift, disk, aliked, xfeat"),
        (lambda: make_extractor("sift", nms_radius=3), "Feature sift has no option nms_radius. It has: max_side, "),
        (lambda: make_extractor("sift", 0), "at least 1, not 0"),
        (lambda: make_extractor("sift", weights=Path("w.pth")), "sift has no weights"),
        (lambda: make_extractor("sift", max_side=0), "max_side must be"),
        (lambda: make_extractor("sift", max_side="large"), "max_side must be"),
        (lambda: extractor_from_settings({"num_keypoints": 5}), "lack 'name'"),
        (lambda: extractor_from_settings({"name": "sift", "num_keypoints": 5, "colour": 1}), "no option colour"),
    ],
)
def test_wrong_use_is_one_clear_error(call, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)


def test_settings_with_weights_that_the_feature_does_not_have() -> None:
    settings = {**make_extractor("sift").settings(), "weights_sha256": "abc"}
    with pytest.raises(WeightsError, match="sha256 abc"):
        extractor_from_settings(settings)


@pytest.mark.parametrize(
    ("name", "module", "needed"),
    [("aliked", "kornia.feature.aliked", "0.8.3"), ("xfeat", "kornia.feature", "0.8.3"), ("disk", "kornia.feature", "0.8.2")],
)
def test_kornia_without_the_network_is_named_with_the_version_that_has_it(monkeypatch, name, module, needed):
    monkeypatch.delitem(sys.modules, f"d2s.features.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf"Feature {name} needs kornia >= {needed}"):
        make_extractor(name)
