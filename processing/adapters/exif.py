"""What a photo's header says about its camera: see `d2s.features.exif`."""

from __future__ import annotations

from d2s.features.exif import PhotoInfo, read_photo

__all__ = ["PhotoInfo", "read_photo"]
