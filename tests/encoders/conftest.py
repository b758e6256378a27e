"""Tiny ONNX files with the conventions of published face models, made by code: no real model file is here.

NOTE: nothing of lorasynth may be imported here, as in tests/conftest.py.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

SIZE = 640
STRIDES = (8, 16, 32)


def constant(name, values):
    return numpy_helper.from_array(np.asarray(values), name)


def save(path, nodes, inputs, outputs, constants):
    """Write a graph; ``inputs`` and ``outputs`` are names with shapes."""
    infos = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in part] for part in (inputs, outputs)]
    graph = helper.make_graph(nodes, "made-by-a-test", *infos, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def save_graph(tmp_path):
    """Write any graph as an ONNX file."""

    def write(nodes, inputs, outputs, constants=(), name="net.onnx"):
        return save(tmp_path / name, nodes, inputs, outputs, list(constants))

    return write


@pytest.fixture
def constant_scrfd(save_graph):
    """A detector that sees the same faces in every picture.

    Each face is (stride, column, row, anchor, score, four distances, ten offsets), in the network's own units.
    """

    def write(faces, size=SIZE, batch_axis=False):
        nodes, outputs, constants = [], [], []
        for kind, width in enumerate((1, 4, 10)):
            for stride in STRIDES:
                values = np.zeros((2 * (size // stride) ** 2, width), np.float32)
                for face in faces:
                    if face[0] == stride:
                        values[2 * (face[2] * (size // stride) + face[1]) + face[3]] = face[4 + kind]
                if batch_axis:
                    values = values[None]
                name = str(440 + len(outputs))  # numbers, as in the published files
                constants.append(constant("c" + name, values))
                nodes.append(helper.make_node("Identity", ["c" + name], [name]))
                outputs.append((name, values.shape))
        return save_graph(nodes, [("input.1", [1, 3, size, size])], outputs, constants)

    return write


@pytest.fixture
def red_scrfd(save_graph):
    """A detector that really looks: each cell of 32 x 32 pixels that is red is a face of 128 pixels a side about its corner."""
    offsets = np.array([-0.8, -0.5, 0.8, -0.5, 0, 0.2, -0.6, 0.9, 0.6, 0.9], np.float32)
    cells = (SIZE // 32) ** 2
    values = {
        "weight": np.array([0.5, -0.5, 0], np.float32).reshape(1, 3, 1, 1),
        "column": np.array([cells, 1]),
        "none": np.zeros((cells, 1), np.float32),
        "interleaved": np.array([2 * cells, 1]),
        "boxes": np.full((2 * cells, 4), 2, np.float32),
        "points": np.tile(offsets, (2 * cells, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["input.1", "weight"], ["redness"]),
        helper.make_node("AveragePool", ["redness"], ["cells"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Reshape", ["cells", "column"], ["scores"]),
        helper.make_node("Concat", ["scores", "none"], ["pairs"], axis=1),
        helper.make_node("Reshape", ["pairs", "interleaved"], ["s32"]),
        helper.make_node("Identity", ["boxes"], ["b32"]),
        helper.make_node("Identity", ["points"], ["k32"]),
    ]
    outputs = []
    for kind, width in (("s", 1), ("b", 4), ("k", 10)):
        for stride in STRIDES:
            rows = 2 * (SIZE // stride) ** 2
            outputs.append((f"{kind}{stride}", [rows, width]))
            if stride != 32:
                values[f"zero{kind}{stride}"] = np.zeros((rows, width), np.float32)
                nodes.append(helper.make_node("Identity", [f"zero{kind}{stride}"], [f"{kind}{stride}"]))
    sizes = [1, 3, None, None]  # as det_10g.onnx: any height and width
    return save_graph(nodes, [("input.1", sizes)], outputs, [constant(n, v) for n, v in values.items()]), offsets


@pytest.fixture
def red_yunet(save_graph):
    """Each cell of 32 x 32 pixels that is red is a face of 64 x 96 pixels about it; input is BGR from 0 to 255."""

    def conv(name, output, stride, constants, weight=0.0, bias=(0.0,)):
        kernel = np.zeros((len(bias), 3, stride, stride), np.float32)
        kernel[:, 2], kernel[:, 1] = weight / stride**2, -weight / stride**2
        constants += [
            helper.make_tensor(f"{name}_w", 1, kernel.shape, kernel.ravel()),
            helper.make_tensor(f"{name}_b", 1, [len(bias)], bias),
            helper.make_tensor(f"{name}_s", 7, [3], [1, -1, len(bias)]),
        ]
        # NOTE: OpenCV 4.10 asks for kernel_shape, which ONNX lets one leave out; PyTorch's exporter always writes it.
        sides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        return [
            helper.make_node("Conv", ["input", f"{name}_w", f"{name}_b"], [f"{name}_c"], **sides),
            helper.make_node("Transpose", [f"{name}_c"], [f"{name}_t"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{name}_t", f"{name}_s"], [output]),
        ]

    nodes, constants, outputs = [], [], []
    points = [-0.8, -0.5, 0.8, -0.5, 0, 0.2, -0.6, 0.9, 0.6, 0.9]
    for kind, bias in (("cls", [0.0]), ("obj", [1.0]), ("bbox", [0.5, 0.5, np.log(2), np.log(3)]), ("kps", points)):
        for stride in (8, 16, 32):
            name = f"{kind}_{stride}"
            weight = 1 / 255 if kind == "cls" and stride == 32 else 0.0
            nodes += conv(f"n{name}", name, stride, constants, weight, bias)
            outputs.append((name, [1, None, len(bias)]))
    return save_graph(nodes, [("input", [1, 3, "h", "w"])], outputs, constants, "yunet.onnx"), points


@pytest.fixture
def recogniser(save_graph):
    """A recogniser whose embedding is the mean colour times a matrix; ``front`` are its first operations, as (op, constant)."""

    def write(front=(), batch="B", size=112, matrix=None, name="net.onnx"):
        matrix = np.eye(3, 8, dtype=np.float32) if matrix is None else matrix
        nodes, constants, value = [], [constant("matrix", matrix)], "data"
        for number, (operation, operand) in enumerate(front):
            operands = [] if operation == "Identity" else [f"k{number}"]
            constants += [constant(name, np.float32(operand)) for name in operands]
            nodes.append(helper.make_node(operation, [value, *operands], [f"v{number}"]))
            value = f"v{number}"
        nodes += [
            helper.make_node("GlobalAveragePool", [value], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "matrix"], ["683"]),
        ]
        return save_graph(
            nodes, [("data", [batch, 3, size, size])], [("683", [batch, matrix.shape[1]])], constants, name
        )

    return write
