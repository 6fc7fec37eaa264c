"""Kapture trees (format 1.1) without the kapture package: the list of images, and their features.

Images are `sensors/records_data/IMAGE`, listed in `sensors/records_camera.txt`; kapture_features.py describes the features.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from d2s.d2net.kapture_features import FeatureFolder
from d2s.d2net.kapture_tables import VERSION, lines_of, read_table, require_inside
from d2s.errors import FormatError


class KaptureTree:
    """A kapture folder. Raises MissingFileError or FormatError when it is none of version 1.1."""

    def __init__(self, root: Path) -> None:
        self.root = root
        sensors = root / "sensors" / "sensors.txt"
        first = lines_of(sensors)[:1]
        version = re.match(r"#\s*kapture format\s*:\s*(\S+)", first[0]) if first else None
        if version is None or version[1] != VERSION:
            raise FormatError(
                f"{sensors} is of kapture format {version[1] if version else 'unknown'}, not {VERSION}.",
                "Convert the tree with kapture's own tools.",
            )

    def images(self) -> list[str]:
        """Names of all camera images, relative to `sensors/records_data`, in the order of `records_camera.txt`, each once."""
        path = self.root / "sensors" / "records_camera.txt"
        names = [posixpath.normpath(row[2]) for row in read_table(path, 3)]
        for name in names:
            require_inside(name, f"Image path in {path}")
        return list(dict.fromkeys(names))

    def image_path(self, name: str) -> Path:
        """The file of an image."""
        return self.root / "sensors" / "records_data" / name

    def features(self, kind: str, type_name: str) -> FeatureFolder:
        """The features of a kind (a key of KINDS) and a type, whether there are any or not."""
        require_inside(type_name, f"Type of {kind}")
        return FeatureFolder(self.root / "reconstruction" / kind / type_name, kind)
