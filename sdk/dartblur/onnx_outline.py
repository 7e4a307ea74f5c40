"""The outline of an ONNX file: its inputs, outputs, operators and weights, read without any other package.

An ONNX file is one protocol buffer, of which the few fields needed here are walked through by their numbers in
``onnx.proto``; the weights themselves are skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from .errors import BundleError

_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

_Value = int | memoryview


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output.

    Attributes:
        name: of the tensor.
        type: of its elements, as NumPy calls it.
        shape: of it; free dimensions by name, or ``?``.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class OnnxOutline:
    """What an ONNX file holds.

    Attributes:
        producer: program and version that wrote it.
        opsets: version of each operator set by its domain; the standard one is ``ai.onnx``.
        inputs, outputs: of the graph.
        operators: how many nodes of each kind the graph has, most frequent first; one that isn't standard goes by
            ``domain::kind``.
        weights: how many numbers of each type are stored in it.
        metadata: what the writer has added.
    """

    producer: str
    opsets: dict[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: dict[str, int]
    weights: dict[str, int]
    metadata: dict[str, str]


def read_outline(data: bytes, source: str) -> OnnxOutline:
    """The outline of an ONNX file's bytes.

    Args:
        data: the whole file.
        source: for messages.

    Raises:
        BundleError: it is truncated, or no ONNX file.
    """
    try:
        return _model(memoryview(data))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{source}: expected an ONNX file, it is truncated or something else ({error}): copy or export it again"
        ) from error


def _model(data: memoryview) -> OnnxOutline:
    model = _message(data)
    inputs, outputs, operators, weights = [], [], Counter[str](), Counter[str]()
    stored = set()
    for number, value in _fields(_bytes(model[7][0])):
        if number == 1:
            operators[_operator(_bytes(value))] += 1
        elif number == 5:
            name, kind, count = _initializer(_bytes(value))
            weights[kind] += count
            stored.add(name)
        elif number == 11:
            inputs.append(_tensor(_bytes(value)))
        elif number == 12:
            outputs.append(_tensor(_bytes(value)))
    producer = " ".join(_text(model[number][0]) for number in (2, 3) if number in model)
    return OnnxOutline(
        producer,
        dict(_opset(_bytes(value)) for value in model[8]),
        # Old files list their weights among the inputs.
        tuple(tensor for tensor in inputs if tensor.name not in stored),
        tuple(outputs),
        dict(operators.most_common()),
        dict(weights.most_common()),
        dict(_pair(_bytes(value)) for value in model.get(14, [])),
    )


def _operator(data: memoryview) -> str:
    message = _message(data)
    domain, kind = (_text(message[number][0]) if number in message else "" for number in (7, 4))
    return kind if domain in ("", "ai.onnx") else f"{domain}::{kind}"


def _opset(data: memoryview) -> tuple[str, int]:
    message = _message(data)
    domain = _text(message[1][0]) if 1 in message else ""
    return domain or "ai.onnx", _number(message[2][0])


def _pair(data: memoryview) -> tuple[str, str]:
    message = _message(data)
    return _text(message[1][0]), _text(message[2][0]) if 2 in message else ""


def _initializer(data: memoryview) -> tuple[str, str, int]:
    message = _message(data)
    sizes = [size for value in message.get(1, []) for size in _numbers(value)]
    name = _text(message[8][0]) if 8 in message else ""
    return name, _type(_number(message[2][0])), prod(sizes)


def _tensor(data: memoryview) -> Tensor:
    message = _message(data)
    kind = _message(_bytes(_message(_bytes(message[2][0]))[1][0]))
    sizes = _message(_bytes(kind[2][0])).get(1, []) if 2 in kind else []
    return Tensor(_text(message[1][0]), _type(_number(kind[1][0])), tuple(_dimension(_bytes(size)) for size in sizes))


def _dimension(data: memoryview) -> int | str:
    message = _message(data)
    if 1 in message:
        return _number(message[1][0])
    return _text(message[2][0]) if 2 in message else "?"


def _type(number: int) -> str:
    return _TYPES.get(number, f"type {number}")


def _message(data: memoryview) -> dict[int, list[_Value]]:
    """All fields of a message by number."""
    message: dict[int, list[_Value]] = {}
    for number, value in _fields(data):
        message.setdefault(number, []).append(value)
    return message


def _fields(data: memoryview) -> Iterator[tuple[int, _Value]]:
    """Number and value of each field: a whole number, or the bytes of anything else."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _LENGTH:
            size, position = _varint(data, position)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > len(data):
            raise ValueError(f"{position + size - len(data)} bytes are missing")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of more than 64 bits at byte {position}")


def _numbers(value: _Value) -> Iterator[int]:
    """One number, or several that were packed together."""
    if isinstance(value, int):
        yield value
        return
    position = 0
    while position < len(value):
        number, position = _varint(value, position)
        yield number


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number where a message was expected")
    return value


def _number(value: _Value) -> int:
    if not isinstance(value, int):
        raise TypeError("a message where a number was expected")
    return value


def _text(value: _Value) -> str:
    return bytes(_bytes(value)).decode()
