"""Fixtures that all tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photos beside the project's; skips the test, by name, where it is not there."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs real photos, and {SHARED_DATA} does not exist")
    return SHARED_DATA


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser's command; skips the test, by name, where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs Chromium, which is not installed")
    return found
