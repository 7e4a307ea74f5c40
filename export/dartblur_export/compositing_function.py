"""Masked compositing by standard ONNX operators, for where there is no plugin."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto
from onnxscript import opset18, script
from onnxscript.values import Opset

OPERATOR, DOMAIN, VERSION = "DartBlurComposite", "dartblur", 1
OPSET = 18
"""Of the standard operators, in the function and so in the graph around it."""

# Typed as anything, since its operators' types are unions of all that there are.
op: Any = opset18

_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64


# The rules, and the order of the arithmetic, are those of cpp_ext/csrc/core/slots.h and patch.h. In one piece, since
# what it called would be ONNX functions too.
#
# TensorRT before 10.8 confuses a function's inputs with tensors of the graph that have their names: hence `_in`.
@script(Opset(DOMAIN, VERSION), default_opset=op)
def DartBlurComposite(  # type: ignore[no-untyped-def] # noqa: N802
    frames_in,
    patches_in,
    boxes_in,
    scores_in,
    threshold: float,
    box_scale: float,
    context: float,
    margin: int,
    plugin_namespace: str,
    plugin_version: str,
):
    """Frames ``[N, H, W, 3]`` with each patch ``[N, S, 3, P, P]`` that counts laid over its box; later slots win."""
    zero, half, one = op.Constant(value_float=0.0), op.Constant(value_float=0.5), op.Constant(value_float=1.0)
    two, white, outside = op.Constant(value_float=2.0), op.Constant(value_float=255.0), op.Constant(value_float=-1.0)
    near, far = op.Constant(value_float=-1048576.0), op.Constant(value_float=1048576.0)
    largest = op.Constant(value_float=3.4028234e38)
    lowest, scale = op.Constant(value_float=threshold), op.Constant(value_float=box_scale)
    none, single = op.Constant(value_int=0), op.Constant(value_int=1)
    axis1, axis2, axis3 = op.Constant(value_ints=[1]), op.Constant(value_ints=[2]), op.Constant(value_ints=[3])
    colours, rest = op.Constant(value_ints=[3]), op.Constant(value_ints=[-1])
    corner, point = op.Constant(value_floats=[0.0, 0.0]), op.Constant(value_floats=[0.0])

    batch, height = op.Shape(frames_in, start=0, end=1), op.Shape(frames_in, start=1, end=2)
    width, slots = op.Shape(frames_in, start=2, end=3), op.Shape(patches_in, start=1, end=2)
    side = op.Shape(patches_in, start=3, end=4)
    rim = op.Unsqueeze(op.Constant(value_int=margin), op.Constant(value_ints=[0]))
    face = side - rim - rim
    row = op.Cast(op.Range(none, op.Squeeze(height), single), to=_FLOAT)
    column = op.Cast(op.Range(none, op.Squeeze(width), single), to=_FLOAT)
    number = op.Unsqueeze(op.Cast(op.Range(none, op.Squeeze(slots), single), to=_FLOAT), axis1)

    # The box that each slot overwrites: grown, or the whole frame where a coordinate is not finite.
    finite = op.ReduceMin(op.Cast(op.LessOrEqual(op.Abs(boxes_in), largest), to=_FLOAT), axis2, keepdims=1) > half
    bounded = op.Clip(boxes_in, near, far)
    low, high = op.Split(bounded, axis=2, num_outputs=2)
    centre, reach = (low + high) * half, (high - low) * half * scale
    larger = op.Concat(centre - reach, centre + reach, axis=2)
    grown = op.Clip(op.Where(op.Equal(scale, one), bounded, larger), near, far)
    frame = op.Concat(corner, op.Cast(width, to=_FLOAT), op.Cast(height, to=_FLOAT), axis=0)
    low, high = op.Split(op.Where(finite, grown, frame), axis=2, num_outputs=2)

    # Its pixels, rounded outward: a slot that does not count ends before it begins.
    area = op.ReduceMin(op.Cast(op.Less(low, high), to=_FLOAT), axis2, keepdims=0) > half
    counts = op.Unsqueeze(op.And(area, op.Not(op.Less(scores_in, lowest))), axis2)
    first = op.Floor(low)
    first_x, first_y = op.Split(first, axis=2, num_outputs=2)
    last_x, last_y = op.Split(op.Where(counts, op.Ceil(high), first), axis=2, num_outputs=2)

    # Which slot wins changes at the boxes' edges alone. So it is worked out where the row of an edge meets the column
    # of one, and a pixel takes it from the last edges above and left of it, of which 0 is always one.
    origin = op.Expand(point, op.Concat(batch, axis1, axis1, axis=0))
    edges_x = op.Transpose(op.Concat(origin, first_x, last_x, axis=1), perm=[0, 2, 1])
    edges_y = op.Transpose(op.Concat(origin, first_y, last_y, axis=1), perm=[0, 2, 1])
    over_x = op.And(edges_x >= first_x, edges_x < last_x)
    over_y = op.And(edges_y >= first_y, edges_y < last_y)
    over = op.Cast(op.And(op.Unsqueeze(over_y, axis3), op.Unsqueeze(over_x, axis2)), to=_FLOAT)
    winners = op.ReduceMax(over * op.Unsqueeze(number + one, axis1), axis1, keepdims=0)
    left = op.ArgMax(op.Where(edges_x <= op.Unsqueeze(column, axis1), edges_x, outside), axis=2, keepdims=0)
    above = op.ArgMax(op.Where(edges_y <= op.Unsqueeze(row, axis1), edges_y, outside), axis=2, keepdims=0)
    lines = op.GatherND(winners, op.Unsqueeze(above, axis2), batch_dims=1)
    everywhere = op.Concat(batch, height, width, axis=0)
    winner = op.GatherElements(lines, op.Expand(op.Unsqueeze(left, axis1), everywhere), axis=2)
    slot = op.Cast(op.Max(winner - one, zero), to=_INT64)

    # Where in the column of all face squares a pixel lies: worked out for each slot's rows and columns, then looked up.
    rim_real, face_real = op.Cast(rim, to=_FLOAT), op.Cast(face, to=_FLOAT)
    side_real, last_pixel = op.Cast(side, to=_FLOAT), op.Squeeze(face_real) - one
    wide = op.Constant(value_float=context)
    reach = (high - low) * half * wide
    begin_x, begin_y = op.Split((low + high) * half - reach, axis=2, num_outputs=2)
    extent_x, extent_y = op.Split(op.Where(counts, reach * two, one), axis=2, num_outputs=2)
    x = op.Clip((column + half - begin_x) / extent_x * side_real - half - rim_real, zero, last_pixel)
    y = op.Clip((row + half - begin_y) / extent_y * side_real - half - rim_real, zero, last_pixel) + number * face_real
    x = (x + half) * (two / face_real) - one
    y = (y + half) * (two / (face_real * op.Cast(slots, to=_FLOAT))) - one
    x = op.GatherElements(x, slot, axis=1)
    y = op.GatherElements(op.Transpose(y, perm=[0, 2, 1]), slot, axis=2)
    grid = op.Concat(op.Unsqueeze(x, axis3), op.Unsqueeze(y, axis3), axis=3)

    # Without the context, so that nothing clear comes back. NaN and what lies below 0 become 0.
    limits = op.Concat(side - rim, side - rim, axis=0)
    squares = op.Slice(patches_in, op.Concat(rim, rim, axis=0), limits, op.Constant(value_ints=[3, 4]))
    squares = op.Cast(squares, to=_FLOAT)
    squares = op.Min(op.Where(squares > zero, squares, zero), one)
    squares = op.Reshape(op.Transpose(squares, perm=[0, 2, 1, 3, 4]), op.Concat(batch, colours, rest, face, axis=0))
    paint = op.GridSample(squares, grid, align_corners=0, mode="bilinear", padding_mode="border")
    grey = op.Transpose(op.Floor(paint * white + half), perm=[0, 2, 3, 1])
    covered = op.Unsqueeze(winner > half, axis3)
    return op.CastLike(op.Where(covered, grey, op.Cast(frames_in, to=_FLOAT)), frames_in)


def compositing_function() -> Any:
    """The ONNX function ``dartblur::DartBlurComposite``, for the functions of a model of `OPSET`."""
    function = DartBlurComposite.to_function_proto()
    for node in function.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    return function
