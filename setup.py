"""Puts the recipes of `configs/` into the wheel as `d2s/configs/`; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """An editable installation reads `configs/` where it stands; a wheel needs its own copy."""

    def run(self) -> None:
        """Build the packages, then copy the recipes beside them."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "d2s" / "configs"
            target.mkdir(parents=True, exist_ok=True)
            for recipe in sorted(Path(__file__).parent.glob("configs/*.ini")):
                shutil.copy(recipe, target)


setup(cmdclass={"build_py": BuildWithRecipes})
