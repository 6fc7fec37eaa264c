"""Building an ONNX graph node by node. The package onnx is needed only to write it.

We write the graph ourselves rather than trace the network: the file then depends on no version of an exporter, has one node per step with
the names of the network's layers, and keeps weights in half and landmarks in 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from d2s.errors import MissingPackageError

OPSET = 17
"""The first with LayerNormalization; ONNX Runtime reads it since 1.12."""
IR_VERSION = 8
FLOAT = 1
"""ONNX's number of the type float32."""
HALVED_FROM = 1024
"""Entries from which a constant is stored in half precision, where that loses nothing."""


class Graph:
    """Nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        self._nodes: list[tuple[str, tuple[str, ...], list[str], dict[str, Any]]] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """One node with one result."""
        result = name or f"{op}_{len(self._nodes)}"
        self._nodes.append((op, inputs, [result], attributes))
        return result

    def add_pair(self, op: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """One node with two results."""
        name = f"{op}_{len(self._nodes)}"
        self._nodes.append((op, inputs, [name, f"{name}.second"], attributes))
        return name, f"{name}.second"

    def constant(self, value: ArrayLike, dtype: Any = np.float32, name: str = "") -> str:
        """A constant; equal ones without a name share their place."""
        values = np.asarray(value, dtype=dtype)
        key = (str(values.dtype), values.shape, name.encode() or values.tobytes())
        if key not in self._known:
            self._known[key] = self._store(values, name or f"constant_{len(self._constants)}")
        return self._known[key]

    def _store(self, values: NDArray[Any], name: str) -> str:
        if values.dtype == np.float32 and values.size >= HALVED_FROM:
            with np.errstate(over="ignore"):
                halved = values.astype(np.float16)
            if (halved == values).all():
                self._constants[f"{name}.half"] = halved
                return self.add("Cast", f"{name}.half", name=name, to=FLOAT)
        self._constants[name] = np.ascontiguousarray(values).reshape(values.shape)
        return name

    def integers(self, values: Sequence[int] | int) -> str:
        """A constant of int64, which shapes, axes and indices are made of."""
        return self.constant(values, np.int64)

    def slice(self, x: str, start: int, stop: int, axis: int) -> str:
        """The part from `start` to `stop` along an axis; less where there is less."""
        return self.add("Slice", x, self.integers([start]), self.integers([stop]), self.integers([axis]))

    def unsqueeze(self, x: str, *axes: int) -> str:
        """With new axes of length one."""
        return self.add("Unsqueeze", x, self.integers(axes))

    def unit(self, x: str) -> str:
        """Vectors along the last axis at unit length."""
        length = self.add("ReduceL2", x, axes=[-1], keepdims=1)
        return self.add("Div", x, self.add("Max", length, self.constant(1e-12)))

    def layers(self, x: str, module: nn.Module, name: str) -> str:
        """Linear, LayerNorm, ReLU, Identity, and sequences of them."""
        if isinstance(module, nn.Sequential):
            for index, layer in enumerate(module):
                x = self.layers(x, layer, f"{name}.{index}")
            return x
        if isinstance(module, nn.Linear):
            product = self.add("MatMul", x, self.constant(array(module.weight).T, name=f"{name}.weight"))
            return self.add("Add", product, self.constant(array(module.bias), name=f"{name}.bias"), name=name)
        if isinstance(module, nn.LayerNorm):
            scale, shift = (self.constant(array(value), name=f"{name}.{kind}") for kind, value in module.named_parameters())
            return self.add("LayerNormalization", x, scale, shift, name=name, axis=-1, epsilon=module.eps)
        if isinstance(module, nn.ReLU):
            return self.add("Relu", x, name=name)
        if isinstance(module, nn.Identity):
            return x
        raise NotImplementedError(f"{name}: no ONNX graph for a {type(module).__name__}")

    def model(
        self, inputs: Mapping[str, Sequence[str | int]], outputs: Mapping[str, Sequence[str | int]], metadata: Mapping[str, str], text: str
    ) -> bytes:
        """The file, checked: float32 inputs and outputs by name with their shapes, where a text names a dynamic axis.

        Raises MissingPackageError.
        """
        try:
            from onnx import checker, helper, numpy_helper
        except ImportError:
            raise MissingPackageError("--format onnx needs the package onnx.", "Install with: sh scripts/setup.sh onnx.") from None
        infos = [[helper.make_tensor_value_info(name, FLOAT, list(shape)) for name, shape in each.items()] for each in (inputs, outputs)]
        nodes = [helper.make_node(op, given, made, name=made[0], **attributes) for op, given, made, attributes in self._nodes]
        constants = [numpy_helper.from_array(values, name) for name, values in self._constants.items()]
        graph = helper.make_graph(nodes, "d2s", *infos, initializer=constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="d2s", doc_string=text
        )
        helper.set_model_props(model, dict(metadata))
        checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


def array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array on the CPU."""
    return np.asarray(tensor.detach().cpu().numpy())
