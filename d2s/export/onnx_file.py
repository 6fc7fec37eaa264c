"""A trained network as one ONNX file: what a robot needs to turn descriptors into correspondences for its own PnP.

The file holds the network, the landmarks of model 3 and, as metadata, what has to be known to use them. It does not hold the feature
network, PnP, the second look, the trust in a pose, nor the field that brings poses into the frame of refined maps' given poses.
"""

from __future__ import annotations

import json
from pathlib import Path

from d2s import __version__
from d2s.export.onnx_graph import Graph
from d2s.export.onnx_network import network_graph
from d2s.localization.localizer import MIN_KEPT
from d2s.regressor.landmarks import LandmarkNet
from d2s.regressor.model_files import TrainedModel

TEXT = (
    "D2S network of one place. Input descriptors (batch, keypoints, D): unit descriptors of the local features named in the metadata, of "
    "each image the best num_keypoints by score, best first; a row of zeros is padding. Outputs: xyz (batch, keypoints, 3), scene "
    "coordinates in the map's frame and unit; reliability (batch, keypoints), 0 to 1; those above reliability_threshold go to PnP."
)


def write(path: Path, model: TrainedModel) -> int:
    """Write the file and return its size in bytes."""
    graph: Graph = network_graph(model.network)
    size = ("batch", "keypoints")
    inputs = {"descriptors": (*size, model.network.descriptor_dim)}
    return path.write_bytes(graph.model(inputs, {"xyz": (*size, 3), "reliability": size}, metadata(model), TEXT))


def metadata(model: TrainedModel) -> dict[str, str]:
    """What `metadata_props` say: texts, numbers as JSON."""
    info, network = model.info, model.network
    values = {
        "num_keypoints": info.num_keypoints,
        "reliability_threshold": info.reliability_threshold,
        "min_kept": MIN_KEPT,
        "max_error": info.max_error,
        "features": info.features,
        "cameras": info.cameras,
        "bounds": info.bounds,
        "model": network.config.model,
        "pose_field": info.pose_field is not None,
        **({"min_similarity": float(network.landmarks.min_similarity)} if isinstance(network, LandmarkNet) else {}),
    }
    texts = {"d2s": __version__, "dataset": info.dataset, "scene": info.scene, "units": info.units}
    return {**texts, **{name: json.dumps(value) for name, value in values.items()}}
