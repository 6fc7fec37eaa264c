"""What pseudo-labelling costs: every photo is decoded and extracted once, however many mapping images it is compared with."""

from __future__ import annotations

import json
import shutil

from d2s.cli import run_module
from d2s.features.sift import SiftExtractor
from d2s.scene.manifest import Scene


def test_a_photo_is_extracted_once_and_mapping_images_never(tiny, tmp_path, monkeypatch):
    """Published (docs/published_defects.md, 35): once per neighbour, and the mapping image is decoded for its size."""
    shutil.copytree(tiny.data_dir, tmp_path / "scenes")
    folder = tmp_path / "scenes" / "demo" / "gallery"
    photos = folder / Scene.load(tiny.folder).image_dir.relative_to(tiny.folder) / "query"
    extracted = []
    extract = SiftExtractor.extract

    def counted(self, images):
        extracted.extend(images)
        return extract(self, images)

    monkeypatch.setattr(SiftExtractor, "extract", counted)
    options = ["--demo_option", "mapping_images=32", "--demo_option", "query_images=5", "--demo_option", "size=320x240"]
    command = ["--dataset", "demo", *options, "--num_keypoints", "500", "--out_dir", str(tmp_path / "scenes"), "--cudaid", "-1"]
    assert run_module("preprocess", [*command, "--process_unlabel_data", "--unlabel_dir", str(photos)]) == 0
    report = json.loads((folder / "unlabel" / "report.json").read_text())
    assert len(extracted) == 5 and report
