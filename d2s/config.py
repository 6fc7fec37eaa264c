"""Recipes: how a scene is learnt, as frozen dataclasses and as INI files.

Every option stands once, here, with its default, its range and its help text. `configs/base.ini` is generated from this file
(`python -m d2s.config > configs/base.ini`); the other files in `configs/` hold only what differs. Unknown keys and bad values of a file
and of `--set` are all reported at once.
"""

from __future__ import annotations

import configparser
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from d2s.errors import ConfigError, MissingFileError

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def option(
    default: Any, help: str, choices: tuple[Any, ...] = (), low: float | None = None, high: float | None = None, above: float | None = None
) -> Any:
    """A dataclass field with its help text and what it allows: choices, low <= value <= high, value > above."""
    return field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high, "above": above})


@dataclass(frozen=True)
class ModelConfig:
    """The network (paper, section III-B; reference figures are those of the published model 2)."""

    model: int = option(2, "1: MLP only; 2: self-attention + MLP; 3: ours, self-attention + landmarks", choices=(1, 2, 3))
    blocks: int = option(5, "self-attention blocks of models 2 and 3; 0: none", low=0, high=32)
    width: int = option(256, "channels of descriptors inside the network; must be divisible by heads", low=8, high=4096)
    heads: int = option(4, "attention heads", low=1, high=64)
    head_widths: tuple[int, ...] = option((512, 1024, 1024, 512), "hidden layers of the coordinate MLP", low=1, high=16384)
    norm: str = option("none", "normalisation inside blocks and MLP; published: none", choices=("none", "layer"))
    reliability: str = option("inverse", "inverse: r = 1/(1+100|u|), published; sigmoid: r = 1/(1+exp(-u))", choices=("inverse", "sigmoid"))
    context: int = option(0, "keypoints that all others of an image attend to in model 3, the best by score; 0: all", low=0)
    landmarks: int = option(
        0,
        "landmarks of model 3, at most, a byte per channel and 12 more each; 0: 30 per mapping image, from 21000 to 40000",
        low=0,
        high=1000000,
    )
    landmark_channels: int = option(
        128, "channels of landmark descriptors; longer descriptors are projected to their principal directions", low=8, high=4096
    )
    normalize_targets: bool = option(False, "regress coordinates centred and scaled by the scene's statistics; published: raw metres")


@dataclass(frozen=True)
class TrainingConfig:
    """Batches and length of the run."""

    n_iters: int = option(300000, "optimiser steps of the first stage; 0: model 3 stays as it begins", low=0)
    n_iters_add: int = option(100000, "optimiser steps of the second stage (--resume_optim)", low=1)
    n_iters_unlabel_add: int = option(50000, "optimiser steps of the third stage (--unlabel --resume_optim)", low=1)
    max_minutes: float = option(0.0, "end (and let the schedule end) after this many minutes of a stage; 0: by steps only", low=0)
    batch_size: int = option(1, "images per step", low=1, high=4096)
    keypoints_per_image: int = option(0, "keypoints drawn from each image per step; 0: all", low=0)
    labelled_fraction: float = option(
        0.0, "share of the drawn keypoints that have a label, where there are enough; 0: as they come", low=0, high=1
    )
    extra_fraction: float = option(
        0.5, "share of the images of a batch that are extra ones (--augment, --unlabel), where there are any", above=0, high=0.9
    )
    refined_poses: bool = option(
        False, "learn at refined poses where held-out stretches are answered better; answers are brought back to the given ones"
    )
    landmarks_per_step: int = option(
        6000, "landmarks of model 3 that a step compares keypoints with: those that they show, and others drawn at random", low=50
    )
    precision: str = option("auto", "auto: bf16 where the machine has it in hardware, else fp32", choices=("auto", "fp32", "bf16"))
    seed: int = option(0, "seed of every random number", low=0)
    snapshot: int = option(20, "epochs between checkpoints (the last one and validated ones are always written)", low=1)
    keep_checkpoints: int = option(3, "checkpoints kept: the newest ones, and the best on validation", low=1)
    val_freq: int = option(50, "epochs between validations on the val split; 0: only at the end", low=0)


@dataclass(frozen=True)
class OptimizationConfig:
    """Optimiser and learning rate."""

    opt: str = option("adam", "optimiser", choices=("adam", "adamw", "sgd", "rmsprop"))
    lr: float = option(1e-4, "learning rate (its peak, for onecycle and cosine)", above=0)
    lr_add: float = option(1e-5, "learning rate of the second stage", above=0)
    lr_add_unlabel: float = option(5e-5, "learning rate of the third stage", above=0)
    weight_decay: float = option(5e-4, "weight decay (L2 in adam, decoupled in adamw)", low=0)
    schedule: str = option(
        "milestones",
        "milestones: times lr_decay at each fifth of a stage, published; shrink: times 1 - lr_decay at each seventh, published later",
        choices=("milestones", "shrink", "cosine", "onecycle"),
    )
    lr_decay: float = option(0.5, "factor of each milestone (shrink: what each step takes away)", above=0, high=1)
    warmup: float = option(0.05, "share of a stage over which cosine and onecycle rise", low=0, high=0.9)
    grad_clip: float = option(0.0, "clip the gradient's norm to this; 0: no clipping", low=0)


@dataclass(frozen=True)
class LossConfig:
    """Losses (paper, section III-C)."""

    map_loss: str = option(
        "sum", "sum: distances summed over keypoints, published; robust: mean of c*log(1+d/c)", choices=("sum", "mean", "robust")
    )
    map_scale: float = option(0.05, "c of the robust loss, as a share of the scene's scale", above=0)
    coef_map: float = option(1.0, "weight of the map loss (model 3: cross entropy of keypoints that show a landmark)", low=0)
    reliability_loss: str = option(
        "batch", "batch: norm over the whole batch, published; image: per image; bce", choices=("batch", "image", "bce")
    )
    coef_reliability: float = option(1.0, "weight of the reliability loss (model 3: cross entropy of those that show none)", low=0)
    reliability_target: str = option(
        "label",
        "label: keypoint has a 3D point, published; error: its prediction reprojects within reliability_px",
        choices=("label", "error"),
    )
    reliability_px: float = option(6.0, "reprojection error in pixels below which a prediction counts as reliable (target: error)", above=0)
    reprojection: str = option(
        "mean", "form of the reprojection loss", choices=("none", "mean", "l1", "l1+sqrt", "l1+log", "tanh", "dyntanh")
    )
    coef_lrepr: float = option(10.0, "weight of the reprojection loss", low=0)
    coef_lrepr_unlabel: float = option(10.0, "weight of the reprojection loss in the third stage", low=0)
    reprojection_stage: int = option(2, "stage in which the reprojection loss begins", choices=(1, 2))
    reprojection_start: float = option(0.0, "share of that stage after which it begins", low=0, high=1)
    reprojection_mask: str = option("labelled", "keypoints that take part", choices=("labelled", "unlabelled", "all"))
    soft_clamp: float = option(50.0, "pixels at which tanh, l1+sqrt and l1+log begin to flatten (dyntanh: at the start)", above=0)
    soft_clamp_min: float = option(1.0, "pixels at which dyntanh flattens at the end", above=0)
    clamp_schedule: str = option("circle", "how dyntanh goes from one to the other", choices=("circle", "linear"))


@dataclass(frozen=True)
class AugmentationConfig:
    """Changes made to descriptors while training."""

    descriptor_noise: float = option(0.0, "standard deviation of noise added to unit descriptors (norm of the noise vector)", low=0, high=2)


@dataclass(frozen=True)
class LocalizationConfig:
    """What the model file recommends to the localizer."""

    reliability_threshold: float = option(0.5, "keypoints with a greater reliability go to PnP", low=0, high=1)
    max_error: float = option(12.0, "RANSAC inlier threshold, pixels of the original image", above=0)


@dataclass(frozen=True)
class LoggingConfig:
    """What one sees while training."""

    print_freq: int = option(20, "steps between entries of metrics.jsonl (and points in Visdom)", low=1)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe; each attribute is a section of the INI file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    localization: LocalizationConfig = field(default_factory=LocalizationConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)


SECTIONS: dict[str, type] = dict(get_type_hints(Recipe))


def load_recipe(path: Path | None, overrides: Iterable[str] = (), values: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of an INI file, changed by `section.key=value` texts and by already typed `values` ("section.key" -> value).

    Raises ConfigError listing every unknown section or key and every bad value at once.
    """
    problems: list[str] = []
    texts = _read_ini(path) if path is not None else {}
    given: set[str] = set()
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or name.count(".") != 1:
            problems.append(f"--set {override!r} is not section.key=value")
        else:
            texts[name.strip()] = text.strip()
            given.add(name.strip())
    given -= set(values or {})
    texts.update({name: format_value(value) for name, value in (values or {}).items()})
    recipe = _build(texts, given, problems)
    if problems:
        where = f"{path}: " if path is not None else ""
        raise ConfigError(f"{where}{'; '.join(problems)}.", "configs/base.ini lists every key with what it allows.")
    return recipe


def _read_ini(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    if not Path(path).is_file():
        raise MissingFileError(f"Recipe {path} does not exist.", "See configs/ for the recipes that come with the project.")
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8"), source=str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not a valid INI file: {' '.join(str(error).split())}.") from None
    return {f"{section}.{key}": text for section in parser.sections() for key, text in parser.items(section)}


def _build(texts: Mapping[str, str], given: set[str], problems: list[str]) -> Recipe:
    known = {f"{section}.{f.name}": f for section, kind in SECTIONS.items() for f in dataclasses.fields(kind)}
    changes: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, text in texts.items():
        origin = " (from --set)" if name in given else ""
        if name not in known:
            problems.append(f"unknown key {name}{origin}")
            continue
        section, key = name.split(".")
        try:
            changes[section][key] = _parse(text, known[name], get_type_hints(SECTIONS[section])[key])
        except ValueError as error:
            problems.append(f"{name} = {text}{origin}: {error}")
    recipe = Recipe(**{section: kind(**changes[section]) for section, kind in SECTIONS.items()})
    problems.extend(_conflicts(recipe))
    return recipe


def _conflicts(recipe: Recipe) -> list[str]:
    """Values that are fine alone but not together."""
    problems = []
    if recipe.model.width % recipe.model.heads:
        problems.append(f"model.width = {recipe.model.width} is not divisible by model.heads = {recipe.model.heads}")
    if recipe.loss.reliability_loss == "bce" and recipe.model.reliability != "sigmoid":
        problems.append("loss.reliability_loss = bce needs model.reliability = sigmoid")
    if recipe.model.model != 3 and not recipe.training.n_iters:
        model, published = recipe.model.model, f"configs/configsV{recipe.model.model}.ini"
        problems.append(f"training.n_iters = 0 leaves model {model} untrained, and only model 3 works untrained ({published} trains it)")
    return problems


def _parse(text: str, entry: dataclasses.Field[Any], kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise ValueError(f"must be one of {'/'.join(TRUE + FALSE)}")
        return text.lower() in TRUE
    if kind in (int, float):
        value = _number(text, kind)
        _check_range([value], entry)
    elif kind is str:
        value = text
    else:
        value = tuple(_number(part, int) for part in text.split())
        _check_range(value, entry)
    choices = entry.metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"must be one of {', '.join(map(str, choices))}")
    return value


def _number(text: str, kind: type) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from None
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError("must be finite")
    return value


def _check_range(values: Iterable[float], entry: dataclasses.Field[Any]) -> None:
    low, high, above = (entry.metadata[key] for key in ("low", "high", "above"))
    for value in values:
        if (low is not None and value < low) or (high is not None and value > high) or (above is not None and value <= above):
            raise ValueError(f"must be {_range_text(entry)}")


def _range_text(entry: dataclasses.Field[Any]) -> str:
    names = (("low", ">="), ("above", ">"), ("high", "<="))
    return " and ".join(f"{sign} {entry.metadata[key]:g}" for key, sign in names if entry.metadata[key] is not None)


def format_value(value: Any) -> str:
    """The INI text of a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def to_ini(recipe: Recipe, comments: bool = False) -> str:
    """The whole recipe as INI text; with `comments`, every key's help and range above it."""
    lines: list[str] = []
    for section in SECTIONS:
        lines.append(f"[{section}]")
        config = getattr(recipe, section)
        for entry in dataclasses.fields(config):
            if comments:
                allowed = ", ".join(map(str, entry.metadata["choices"])) or _range_text(entry)
                lines.append(f"# {entry.metadata['help']}" + (f" ({allowed})" if allowed else ""))
            lines.append(f"{entry.name} = {format_value(getattr(config, entry.name))}")
        lines.append("")
    return "\n".join(lines)


def find_recipe(name: str | Path) -> Path:
    """A recipe file given as a path, or by its name in the project's `configs/`."""
    path = Path(name)
    if path.is_file() or path.parent not in (Path("."), Path("configs")):
        return path
    return next((folder / path.name for folder in _recipe_folders() if (folder / path.name).is_file()), path)


def _recipe_folders() -> tuple[Path, ...]:
    """Where the project's recipes lie: beside the package in a checkout, in it when it was installed from a wheel (see setup.py)."""
    package = Path(__file__).resolve().parent
    return package.parent / "configs", package / "configs"


if __name__ == "__main__":
    print("# Every option of a recipe with its default. Generated: python -m d2s.config > configs/base.ini")
    print(to_ini(Recipe(), comments=True), end="")
