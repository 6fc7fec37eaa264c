"""hloc and pycolmap 4: geometries of known poses that COLMAP ignores.

At known poses hloc (v1.5, `triangulation.geometric_verification` and `import_matches`) writes `TwoViewGeometry(inlier_matches=…)` and
leaves `config` at its default, UNDEFINED. Up to COLMAP 3 that did not matter; COLMAP 4 loads only geometries with a configuration, so that
triangulation finds no correspondence and returns a model with 0 points, without an error. All that is missing is the word CALIBRATED.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pycolmap

from d2s.errors import FormatError, ReconstructionError
from d2s.geometry.colmap_log import quiet_colmap
from processing.sfm.colmap import temporary_folder

logger = logging.getLogger(__name__)

DATABASE = "database.db"
UNDEFINED = int(pycolmap.TwoViewGeometryConfiguration.UNDEFINED)
CALIBRATED = int(pycolmap.TwoViewGeometryConfiguration.CALIBRATED)
SUSPICIOUS_POINTS_PER_IMAGE = 5
CAUSE = "hloc at known poses and pycolmap 4 do this together, without an error (its matches are written as UNDEFINED geometries)"
REMEDY = "Let d2s triangulate: --sfm hloc --overwrite with hloc at hand, or --sfm native; or use pycolmap 3.13 for hloc."


def mend_database(path: Path) -> int:
    """Declare geometries that have matches but no configuration CALIBRATED, as known poses make them; gives how many.

    Raises FormatError when the file is not a COLMAP database.
    """
    with _sqlite(path) as connection:
        changed = connection.execute(
            "UPDATE two_view_geometries SET config = ? WHERE config = ? AND rows > 0", (CALIBRATED, UNDEFINED)
        ).rowcount
        connection.commit()
    return changed


def undefined_geometries(path: Path) -> int:
    """Number of image pairs whose verified matches COLMAP 4 ignores."""
    with _sqlite(path) as connection:
        query = "SELECT COUNT(*) FROM two_view_geometries WHERE config = ? AND rows > 0"
        return int(connection.execute(query, (UNDEFINED,)).fetchone()[0])


@contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    try:
        yield connection
    except sqlite3.Error as error:
        raise FormatError(f"{path} is not a COLMAP database ({error}).", "Run hloc's triangulation again.") from None
    finally:
        connection.close()


def refuse_empty_or_mend(model: pycolmap.Reconstruction, folder: Path) -> pycolmap.Reconstruction:
    """The model; where it has no points, the one that its database gives when mended (hloc's own files stay as they are).

    Raises ReconstructionError when there is nothing to mend, which says what happened and what to do.
    """
    images = model.num_reg_images()
    if model.num_points3D() == 0:
        return _retriangulate(model, folder)
    if model.num_points3D() < SUSPICIOUS_POINTS_PER_IMAGE * images:
        logger.warning("hloc's model %s has only %d points for %d images.", folder, model.num_points3D(), images)
    return model


def _retriangulate(model: pycolmap.Reconstruction, folder: Path) -> pycolmap.Reconstruction:
    database = folder / DATABASE
    problem = f"hloc's model {folder} has {model.num_reg_images()} images and 0 points: {CAUSE}."
    if model.num_reg_images() == 0 or not database.is_file() or not undefined_geometries(database):
        raise ReconstructionError(problem, REMEDY)
    logger.warning("%s Its database is mended in a copy, and triangulated again.", problem)
    with temporary_folder(None) as work:
        copy = Path(work) / DATABASE
        shutil.copyfile(database, copy)
        mend_database(copy)
        return triangulate_database(model, copy, Path(work))


def triangulate_database(model: pycolmap.Reconstruction, database: Path, work: Path) -> pycolmap.Reconstruction:
    """Triangulate the geometries of a database at the poses of a model, with hloc's options (COLMAP's defaults)."""
    options = pycolmap.IncrementalPipelineOptions()
    options.extract_colors = False
    with quiet_colmap():
        found = pycolmap.triangulate_points(model, str(database), str(work), str(work), True, options, False)
    if found.num_points3D() == 0:
        raise ReconstructionError(f"No 3D point comes out of {database}.", "Check that poses, cameras and images belong together.")
    return found
