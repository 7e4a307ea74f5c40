"""Small bundles whose graphs keep the contract of fused graphs, and are built in an instant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from dartblur import load_bundle
from dartblur.bundle import Bundle, Manifest, write_bundle

SLOTS, HELD, SIDE = 3, 2, 8
MANIFEST = Manifest("tiny", "1", "none", 0.4, 1.15, SIDE, 1.6, fused={"slots": SLOTS, "held": HELD})

MakeBundle = Callable[..., Bundle]


def tiny_graph(half: bool, sizes: tuple[int | str, int | str, int | str] = ("batch", "height", "width")) -> bytes:
    """Frames and held boxes in; patches of one grey, the held boxes in every slot, and scores out.

    half: whether the convolution is in half precision. sizes: batch, height and width.
    """
    kind, numpy_kind = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    count = SLOTS + HELD
    constants = {
        "weights": np.full((count * 3, 3, 3, 3), 0.01, numpy_kind),
        "paper": np.ones((1, count * 3, SIDE, SIDE), numpy_kind),
        "patch_shape": np.array([-1, count, 3, SIDE, SIDE]),
        "order": np.arange(count) % HELD,
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["real"], to=kind),
        helper.make_node("Transpose", ["real"], ["pictures"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["pictures", "weights"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["features"], ["means"]),
        helper.make_node("Mul", ["means", "paper"], ["painted"]),
        helper.make_node("Reshape", ["painted", "patch_shape"], ["patches"]),
        helper.make_node("Gather", ["held_boxes", "order"], ["boxes"], axis=1),
        helper.make_node("ReduceMax", ["boxes"], ["scores"], axes=[2], keepdims=0),
    ]
    batch, height, width = sizes
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("frames", TensorProto.UINT8, [batch, height, width, 3]),
            helper.make_tensor_value_info("held_boxes", TensorProto.FLOAT, [batch, HELD, 4]),
        ],
        [
            helper.make_tensor_value_info("patches", kind, [batch, count, 3, SIDE, SIDE]),
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, count, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, count]),
        ],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="tests")
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes a bundle; graphs by name replace its own (None: leave it out), fields those of its manifest."""

    def made(folder: str = "bundle", graphs: dict[str, bytes | None] | None = None, **fields: object) -> Bundle:
        files = {
            "detector.onnx": b"-",
            "generator.onnx": b"-",
            "fused.onnx": tiny_graph(half=False),
            "fused-half.onnx": tiny_graph(half=True),
            **(graphs or {}),
        }
        present = {name: data for name, data in files.items() if data is not None}
        write_bundle(tmp_path / folder, replace(MANIFEST, **fields), present)  # type: ignore[arg-type]
        return load_bundle(tmp_path / folder)

    return made
