"""Weights of the graphs: in 8 or 4 bits, and in one file for all graphs, for two of them share most."""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import onnx

WEIGHTS_NAME = "weights.bin"
BLOCK_SIZE = 32
"""Weights of a column that share a scale."""

MIN_WIDTH = 64
"""Products with fewer terms stay in float32: they are fast enough, and in the decay and in PACA they are the
delicate ones."""

MIN_BYTES = 1024
"""Smaller tensors stay in the graph's own file."""

ALIGNMENT = 64


def quantize_weights(graph: onnx.ModelProto, bits: int = 8) -> onnx.ModelProto:
    """Puts the weights of the matrix products into 8 bits or 4, with a scale for every 32 weights of an output.

    The products run on 8-bit integers. Every row of activations gets scales of its own as it comes: up to rounding, a
    row of a batch gives what it gives alone, which a scale for the whole tensor (`quantize_dynamic`) would not grant.
    Weights and activations are symmetric, so that sums of products of bytes do not saturate without VNNI.

    Args:
        graph (`onnx.ModelProto`): A graph in float32.
        bits (`int`, defaults to 8): Bits of a weight.

    Returns:
        `onnx.ModelProto`: The quantised graph.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # Being imported, it sets up logging for the whole process.
    root.handlers, root.level = handlers, level
    initializers = {tensor.name: tensor for tensor in graph.graph.initializer}
    narrow = [
        node.name
        for node in graph.graph.node
        if node.op_type == "MatMul"
        and (weight := initializers.get(node.input[1])) is not None
        and min(weight.dims) < MIN_WIDTH
    ]
    quantizer = MatMulNBitsQuantizer(
        graph, bits=bits, block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=4, nodes_to_exclude=narrow
    )
    quantizer.process()
    return quantizer.model.model


def save_graphs(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> None:
    """Writes graphs as `NAME.onnx` into a folder, and their weights, each once, into `weights.bin`.

    Args:
        graphs (`Mapping[str, onnx.ModelProto]`): Graphs by name; their weights are moved out of them.
        folder (`Path`): An existing folder.
    """
    offsets: dict[bytes, int] = {}
    with open(folder / WEIGHTS_NAME, "wb") as file:
        for name, graph in graphs.items():
            for tensor in graph.graph.initializer:
                content = onnx.numpy_helper.to_array(tensor).tobytes()
                if len(content) < MIN_BYTES:
                    continue
                digest = hashlib.sha256(content).digest()
                if digest not in offsets:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    offsets[digest] = file.tell()
                    file.write(content)
                _point_into_file(tensor, offsets[digest], len(content))
            _strip(graph)
            onnx.save_model(graph, folder / f"{name}.onnx")


def _strip(graph: onnx.ModelProto) -> None:
    """Takes out notes of the exporter: stack traces, with the paths of its machine."""
    del graph.metadata_props[:], graph.graph.metadata_props[:], graph.graph.value_info[:]
    for item in (*graph.graph.node, *graph.graph.initializer, *graph.graph.input, *graph.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]


def _point_into_file(tensor: onnx.TensorProto, offset: int, length: int) -> None:
    for values in (tensor.float_data, tensor.int32_data, tensor.int64_data):
        del values[:]
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in (("location", WEIGHTS_NAME), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    tensor.data_location = onnx.TensorProto.EXTERNAL


__all__ = ["WEIGHTS_NAME", "quantize_weights", "save_graphs"]
