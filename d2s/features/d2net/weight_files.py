"""Putting the weights of a file into D2-Net, whatever the file's layout."""

from __future__ import annotations

from pathlib import Path

from d2s.errors import WeightsError
from d2s.features.d2net.caffemodel import SUFFIX, read_caffemodel
from d2s.features.d2net.checkpoints import harmless_types, normalise
from d2s.features.d2net.network import D2Net
from d2s.features.weights import load_state_dict


def load_into(network: D2Net, path: Path) -> None:
    """Load a checkpoint of D2-Net or of VGG16, strictly. Raises WeightsError for a file that is neither."""
    try:
        if path.suffix == SUFFIX:
            state = dict(read_caffemodel(path))
        else:
            with harmless_types():
                state = load_state_dict(path)
        network.load_state_dict(normalise(state))
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"Weights {path} do not fit D2-Net: {reason}", "Give a checkpoint of D2-Net or of VGG16.") from None
