"""Every error that a user can meet.

An error names the file or value that is wrong, what is allowed, and what to do. The command line prints it as one line and exits with
`exit_code`: 2 for wrong use or bad input, 1 for work that could not be finished.
"""

from __future__ import annotations

from collections.abc import Iterable


class D2SError(Exception):
    """Base of all errors that are reported without a traceback."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem} {remedy}".strip())


class InputError(D2SError):
    """Something that the user gave is wrong: a value, a file, a folder."""

    exit_code = 2


class MissingFileError(InputError):
    """A file or folder that must exist does not."""


class FormatError(InputError):
    """A file exists but does not hold what its format demands."""


class ConfigError(InputError):
    """A recipe has unknown keys or values outside their range."""


class SettingsMismatchError(InputError):
    """An existing output was made with other settings; mixing the two would be wrong."""


class WeightsError(InputError):
    """Pretrained weights are neither given, cached, installed nor downloadable."""


class MissingPackageError(InputError):
    """An optional package is needed for what was asked."""


class ReconstructionError(D2SError):
    """Structure from motion or triangulation found too little to go on with."""


class DownloadError(D2SError):
    """A file could not be fetched, or is not the one that was fetched before."""


class TrainingError(D2SError):
    """Training cannot go on (for example, the loss is not finite)."""


def unknown_choice(what: str, value: object, allowed: Iterable[object]) -> InputError:
    """An `InputError` for a name that is not in a table, listing what is."""
    return InputError(f"Unknown {what} {value!r}.", f"Choose one of: {', '.join(str(a) for a in allowed)}.")
