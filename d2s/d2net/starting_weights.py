"""The network that training begins with: a checkpoint of D2-Net, or VGG16 as trained on ImageNet."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from d2s.features.d2net.checkpoints import published_name
from d2s.features.d2net.network import D2Net
from d2s.features.d2net.weight_files import load_into
from d2s.features.weights import resolve_weights

log = logging.getLogger(__name__)

RANDOM = "random"
"""The name of no weights at all."""


def starting_network(model_file: Path, seed: int) -> D2Net:
    """The training graph with the weights of a file, or of the published file of that name, which is looked for or downloaded.

    Only its last convolution, conv4_3, is trainable (Dusmanu et al. 2019, section 4.3). `random`: no weights, with a warning. Raises
    WeightsError for weights that are not there or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = D2Net("training")
    if str(model_file) == RANDOM:
        log.warning("Training begins with random weights: only the last layer is trained, so that the result will be poor.")
    else:
        published = published_name(model_file)
        load_into(network, resolve_weights(published) if published else resolve_weights("d2net", model_file))
    network.requires_grad_(False)
    network.dense_feature_extraction.model[-1].requires_grad_(True)
    return network
