"""d2s: from one photo, where is the camera? Learns a place from photos and localizes new ones in it (D2S, Bui et al., RA-L 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2s.localization.localizer import LocalizationResult, Localizer
    from d2s.localization.sequence import SequenceLocalizer

__version__ = "0.1.0"
__all__ = ["LocalizationResult", "Localizer", "SequenceLocalizer", "__version__"]


def __getattr__(name: str) -> Any:
    """The public classes, imported when first used: `import d2s` stays fast and needs no torch."""
    if name in ("Localizer", "LocalizationResult"):
        from d2s.localization import localizer

        return getattr(localizer, name)
    if name == "SequenceLocalizer":
        from d2s.localization import sequence

        return sequence.SequenceLocalizer
    raise AttributeError(f"module 'd2s' has no attribute {name!r}")
