"""Which device a command computes on."""

from __future__ import annotations

import argparse

import torch

from d2s.errors import InputError


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --cudaid."""
    parser.add_argument("--cudaid", type=int, default=None, help="GPU to use; -1: CPU (default: the first GPU, else the CPU)")


def choose_device(cudaid: int | None) -> torch.device:
    """The device of --cudaid. Raises InputError for a GPU that is not there."""
    count = torch.cuda.device_count()
    if cudaid is None:
        return torch.device("cuda", 0) if count else torch.device("cpu")
    if cudaid == -1:
        return torch.device("cpu")
    if not 0 <= cudaid < count:
        raise InputError(f"--cudaid {cudaid}: this machine has {count} CUDA devices.", "Use -1 for the CPU, or leave the option out.")
    return torch.device("cuda", cudaid)
