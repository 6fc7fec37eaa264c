"""The networks as ONNX graphs: unit descriptors (B, N, D) in, scene coordinates (B, N, 3) and reliabilities (B, N) out.

A row of zeros is padding: it influences no other keypoint, and its coordinates and reliability are 0.
"""

from __future__ import annotations

import math

import numpy as np

from d2s.export.onnx_graph import FLOAT, Graph, array
from d2s.matching.database import BLOCK
from d2s.regressor.landmarks import NOT_MUTUAL, LandmarkNet
from d2s.regressor.network import AttentionBlock, D2SNet

MASKED = -1e9  # finite, so that an image of padding alone gives no NaN


def network_graph(network: D2SNet | LandmarkNet) -> Graph:
    """The graph between the input `descriptors` and the outputs `xyz` and `reliability`."""
    graph = Graph()
    largest = graph.add("ReduceMax", graph.add("Abs", "descriptors"), axes=[-1], keepdims=0)
    real = graph.add("Greater", largest, graph.constant(0.0), name="real")
    xyz, reliability = _landmarks(graph, network, real) if isinstance(network, LandmarkNet) else _regression(graph, network, real)
    zero = graph.constant(0.0)
    graph.add("Where", graph.unsqueeze(real, 2), xyz, zero, name="xyz")
    graph.add("Where", real, reliability, zero, name="reliability")
    return graph


def _regression(graph: Graph, network: D2SNet, real: str) -> tuple[str, str]:
    x = graph.add("Mul", "descriptors", graph.constant(network.input_gain))
    x = graph.layers(x, network.project, "project")
    for index, block in enumerate(network.blocks):
        x = _attention(graph, block, x, real, f"blocks.{index}")  # type: ignore[arg-type]
    output = graph.layers(x, network.head, "head")
    scaled = graph.add("Mul", graph.slice(output, 0, 3, 2), graph.constant(array(network.scale), name="scale"))
    xyz = graph.add("Add", scaled, graph.constant(array(network.center), name="center"))
    u = graph.add("Squeeze", graph.slice(output, 3, 4, 2), graph.integers([2]))
    if network.config.reliability == "sigmoid":
        return xyz, graph.add("Sigmoid", u)
    distance = graph.add("Mul", graph.add("Abs", u), graph.constant(100.0))
    return xyz, graph.add("Reciprocal", graph.add("Add", distance, graph.constant(1.0)))


def _attention(graph: Graph, block: AttentionBlock, x: str, real: str, name: str, context: int | None = None) -> str:
    """The block's x + MLP([x; attention(x)]); all keypoints attend to the first `context` ones."""
    width = block.merge.in_features
    seen = graph.slice(x, 0, context, 1) if context else x
    mask = graph.slice(real, 0, context, 1) if context else real
    queries, keys, values = (
        _heads(graph, graph.layers(of, getattr(block, part), f"{name}.{part}"), block.heads, width, order)
        for part, of, order in (("query", x, (0, 2, 1, 3)), ("key", seen, (0, 2, 3, 1)), ("value", seen, (0, 2, 1, 3)))
    )
    queries = graph.add("Mul", queries, graph.constant(1 / math.sqrt(width // block.heads)))
    bias = graph.add("Where", graph.unsqueeze(mask, 1, 2), graph.constant(0.0), graph.constant(MASKED))
    weights = graph.add("Softmax", graph.add("Add", graph.add("MatMul", queries, keys), bias), axis=-1)
    attended = graph.add("Transpose", graph.add("MatMul", weights, values), perm=[0, 2, 1, 3])
    message = graph.layers(graph.add("Reshape", attended, graph.integers([0, 0, width])), block.merge, f"{name}.merge")
    return graph.add("Add", x, graph.layers(graph.add("Concat", x, message, axis=-1), block.mlp, f"{name}.mlp"), name=name)


def _heads(graph: Graph, x: str, heads: int, width: int, order: tuple[int, ...]) -> str:
    """(B, N, C) as (B, N, heads, C / heads) with its axes in another order."""
    return graph.add("Transpose", graph.add("Reshape", x, graph.integers([0, 0, heads, width // heads])), perm=list(order))


def _landmarks(graph: Graph, network: LandmarkNet, real: str) -> tuple[str, str]:
    refined = _refine(graph, network, real)
    similarity, index, mutual = _nearest(graph, network, refined, real)
    xyz = graph.add("Gather", graph.constant(array(network.xyz), name="landmarks.xyz"), index)
    return xyz, _probability(graph, network, similarity, mutual)


def _refine(graph: Graph, network: LandmarkNet, real: str) -> str:
    given = "descriptors"
    if network.channels < network.descriptor_dim:
        given = graph.add("MatMul", given, graph.constant(array(network.projection), name="projection"))
    given = graph.unit(given)
    if not network.blocks:
        return given
    x = graph.layers(graph.add("Mul", given, graph.constant(network.channels**0.5)), network.enter, "enter")
    for index, block in enumerate(network.blocks):
        x = _attention(graph, block, x, real, f"blocks.{index}", network.config.context)  # type: ignore[arg-type]
    return graph.unit(graph.add("Add", given, graph.layers(x, network.leave, "leave")))


def _nearest(graph: Graph, network: LandmarkNet, refined: str, real: str) -> tuple[str, str, str]:
    """Similarity (B, N, blocks) of the best landmark of every block, the best of all (B, N), and whether that is mutual (B, N)."""
    codes = graph.constant(array(network.landmarks.codes), np.int8, name="landmarks.codes")
    directions = graph.unit(graph.add("Cast", codes, to=FLOAT))
    columns = graph.add("Transpose", directions, perm=[1, 0])
    best, places = [], []
    for start in range(0, network.count, BLOCK):
        product = graph.add("MatMul", refined, graph.slice(columns, start, start + BLOCK, 1))
        similarity, place = graph.add_pair("TopK", product, graph.integers([1]), axis=-1)
        best.append(similarity)
        places.append(graph.add("Add", place, graph.integers(start)))
    of_blocks, place = graph.add("Concat", *best, axis=-1), graph.add("Concat", *places, axis=-1)
    block = graph.add("ArgMax", of_blocks, axis=-1, keepdims=1)
    index = graph.add("Squeeze", graph.add("GatherElements", place, block, axis=-1), graph.integers([2]))
    return of_blocks, index, _mutual(graph, refined, graph.add("Gather", directions, index), real)


def _mutual(graph: Graph, refined: str, chosen: str, real: str) -> str:
    """Whether no other keypoint is more similar to the landmark `chosen` (B, N, C) of a keypoint: (B, N).

    Runtimes reduce along the last axis many times faster than across it, so the few chosen landmarks are compared again.
    """
    similarity = graph.add("MatMul", chosen, graph.add("Transpose", refined, perm=[0, 2, 1]))
    padding = graph.add("Where", graph.unsqueeze(real, 1), graph.constant(0.0), graph.constant(MASKED))
    back = graph.add("ArgMax", graph.add("Add", similarity, padding), axis=-1, keepdims=0)
    count = graph.add("Squeeze", graph.slice(graph.add("Shape", real), 1, 2, 0), graph.integers([0]))
    return graph.add("Equal", back, graph.add("Range", graph.integers(0), count, graph.integers(1)))


def _probability(graph: Graph, network: LandmarkNet, similarity: str, mutual: str) -> str:
    """As `LandmarkNet.logits` and `reliability`; ONNX has no expm1, which is 2 t / (1 - t) with t = tanh(x / 2)."""
    scale = math.exp(network.log_scale.item())
    scores = graph.add("Mul", similarity, graph.constant(scale))
    none = graph.constant(network.threshold.item() * scale)  # "no landmark" competes with a score of its own
    all_scores = graph.add("Pad", scores, graph.integers([0, 0, 0, 0, 0, 1]), none)
    others = graph.add("ReduceLogSumExp", all_scores, axes=[-1], keepdims=0)
    best = graph.add("ReduceMax", scores, axes=[-1], keepdims=0)
    log_probability = graph.add("Min", graph.add("Sub", best, others), graph.constant(-1e-6))
    half = graph.add("Tanh", graph.add("Mul", log_probability, graph.constant(0.5)))
    odds_against = graph.add("Div", graph.add("Mul", half, graph.constant(-2.0)), graph.add("Sub", graph.constant(1.0), half))
    logit = graph.add("Sub", log_probability, graph.add("Log", odds_against))
    return graph.add("Sigmoid", graph.add("Where", mutual, logit, graph.add("Add", logit, graph.constant(NOT_MUTUAL))))
