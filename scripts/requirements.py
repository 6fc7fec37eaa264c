"""Print what the installed project requires, with the extras named on the command line, one requirement a line.

`pip install -r` of that is `pip install .[extras]`, with one difference: another OpenCV distribution that is already there stays, where pip
would unpack the headless one over the same `cv2` folder.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

OTHER_OPENCV = {"opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"}
EXTRA = re.compile(r"""(?:\s*\band\s+|;\s*)?\bextra\s*==\s*['"]([\w-]+)['"]""")


def requirements(texts: Iterable[str], extras: set[str], installed: set[str]) -> Iterator[str]:
    """Those of a distribution's requirements (`Requires-Dist`) that apply, without their condition on the extra."""
    for text in texts:
        extra = EXTRA.search(text)
        if extra and extra.group(1) not in extras or text.startswith("d2s["):
            continue
        if text.startswith("opencv-python-headless") and installed & OTHER_OPENCV:
            continue
        yield EXTRA.sub("", text).strip()


def main(wanted: list[str]) -> None:
    """Print the requirements; unknown extras end it with a message."""
    known = set(metadata.metadata("d2s").get_all("Provides-Extra") or [])
    if set(wanted) - known:
        sys.exit(f"setup: unknown extra {', '.join(sorted(set(wanted) - known))}; choose from: {', '.join(sorted(known))}.")
    extras = known if "all" in wanted else set(wanted)
    installed = {(dist.metadata["Name"] or "").lower().replace("_", "-") for dist in metadata.distributions()}
    print("\n".join(requirements(metadata.requires("d2s") or [], extras, installed)))


if __name__ == "__main__":
    main(sys.argv[1:])
