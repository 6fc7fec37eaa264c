"""Give Visdom's page its scripts from the npm registry: python scripts/visdom_page.py [FOLDER]

Visdom downloads what its page needs (jQuery, React, Plotly, ...) from several hosts when its server first starts, and does not start where
these cannot be reached. On a machine that reaches a package registry and nothing else, this puts the same files in the same places (FOLDER:
default the installed visdom's `static`), so that `python -m visdom.server` finds them and downloads nothing. Needs npm.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib import metadata, util
from pathlib import Path

# Package of the versions that visdom 0.2.4 asks for -> file in the package -> file in `static`
FILES: dict[str, dict[str, str]] = {
    "jquery@3.1.1": {"dist/jquery.min.js": "js/jquery.min.js"},
    "bootstrap@3.3.7": {
        "dist/js/bootstrap.min.js": "js/bootstrap.min.js",
        "dist/css/bootstrap.min.css": "css/bootstrap.min.css",
        **{
            f"dist/fonts/glyphicons-halflings-regular.{kind}": f"fonts/glyphicons-halflings-regular.{kind}"
            for kind in ("eot", "woff2", "woff", "ttf")
        },
        "dist/fonts/glyphicons-halflings-regular.svg": "fonts/glyphicons-halflings-regular.svg#glyphicons_halflingsregular",
    },
    "react@16.2.0": {"umd/react.production.min.js": "js/react-react.min.js"},
    "react-dom@16.2.0": {"umd/react-dom.production.min.js": "js/react-dom.min.js"},
    "react-modal@3.1.10": {"dist/react-modal.min.js": "js/react-modal.min.js"},
    "plotly.js-dist-min@2.11.1": {"plotly.min.js": "js/plotly-plotly.min.js"},
    "sjcl@1.0.7": {"sjcl.js": "js/sjcl.js"},
    "layout-bin-packer@1.4.0": {
        "dist/layout-bin-packer.js": "js/layout_bin_packer.js",
        "dist/layout-bin-packer.js.map": "js/layout-bin-packer.js.map",
    },
    "d3@3.5.17": {"d3.min.js": "js/d3.v3.min.js"},
    "d3-selection-multi@1.0.1": {"build/d3-selection-multi.min.js": "js/d3-selection-multi.v1.js"},
    "save-svg-as-png@1.4.17": {"lib/saveSvgAsPng.js": "js/saveSvgAsPng.js"},
    "react-resizable@1.4.6": {"css/styles.css": "css/react-resizable-styles.css"},
    "react-grid-layout@0.16.3": {"css/styles.css": "css/react-grid-layout-styles.css"},
    "classnames@2.2.5": {"index.js": "fonts/classnames"},
    "mathjax@2.7.5": {
        name: f"js/mathjax/2.7.5/{name}"
        for name in (
            "MathJax.js",
            "config/Safe.js",
            "config/TeX-AMS-MML_HTMLorMML.js",
            "extensions/Safe.js",
            "jax/output/SVG/fonts/TeX/fontdata.js",
            "jax/output/SVG/jax.js",
            "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",
            "jax/output/SVG/config.js",
        )
    },
}
BUILT = "version.built"
"""Where visdom notes the version whose scripts it has."""


def main() -> int:
    """Fill the folder; 2 and a line when that is not possible."""
    if len(sys.argv) > 2 or sys.argv[1:2] in (["-h"], ["--help"]):
        print(__doc__)
        return 2
    found = util.find_spec("visdom")
    if found is None or not found.submodule_search_locations:
        return _fail("visdom is not installed; sh scripts/setup.sh installs it.")
    static = Path(sys.argv[1]) if len(sys.argv) == 2 else Path(found.submodule_search_locations[0], "static")
    version = metadata.version("visdom")
    if is_complete(static, version):
        return 0
    npm = shutil.which("npm")
    if npm is None:
        return _fail("npm is needed (Debian, Ubuntu: apt install npm), or a network that reaches more than a package registry.")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--silent", "--fetch-retries=1", "--fetch-timeout=30000", "--pack-destination", folder]
        if subprocess.run([npm, "pack", *options, *FILES], stdout=subprocess.DEVNULL, cwd=folder).returncode:
            return _fail("npm could not fetch the scripts of visdom's page.")
        for package, names in FILES.items():
            _unpack(Path(folder, package.replace("@", "-") + ".tgz"), names, static)
    (static / BUILT).write_text(version)
    print(f"visdom's page has its scripts: {static}")
    return 0


def is_complete(static: Path, version: str) -> bool:
    """Whether visdom would download nothing."""
    built = static / BUILT
    return (
        built.is_file()
        and built.read_text().strip() == version
        and all((static / name).is_file() for names in FILES.values() for name in names.values())
    )


def _unpack(archive: Path, names: dict[str, str], static: Path) -> None:
    with tarfile.open(archive) as tar:
        for source, target in names.items():
            content = tar.extractfile(f"package/{source}")
            assert content is not None
            (static / target).parent.mkdir(parents=True, exist_ok=True)
            (static / target).write_bytes(content.read())


def _fail(problem: str) -> int:
    print(f"visdom_page: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
