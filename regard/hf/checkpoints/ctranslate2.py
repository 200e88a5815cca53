"""Reading CTranslate2's model.bin: named arrays in one binary file."""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from regard.errors import CheckpointError

VERSION = 6
# bfloat16 has no NumPy type: its bits are taken as int16 and seen as bfloat16 by torch.
_TYPES = {0: "<f4", 1: "|i1", 2: "<i2", 3: "<i4", 4: "<f2", 5: "<i2"}
_BFLOAT16 = 5


class _Bytes:
    """The file's bytes, taken from the front; asking for more than is left is an error that says where."""

    def __init__(self, path: Path) -> None:
        self.name, self.data, self.at = path.name, memoryview(path.read_bytes()), 0

    def take(self, count: int, what: str) -> memoryview:
        if self.at + count > len(self.data):
            left = len(self.data) - self.at
            raise CheckpointError(
                f"{self.name} is cut short: {what} at byte {self.at} needs {count} bytes, and {left} are left."
            )
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def number(self, code: str, what: str) -> int:
        return struct.unpack("<" + code, self.take(struct.calcsize(code), what))[0]

    def text(self, what: str) -> str:
        raw = bytes(self.take(self.number("H", f"the length of {what}"), what))
        try:
            return raw.removesuffix(b"\0").decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.name} is damaged: {what} before byte {self.at} is not text.") from error


def read(path: Path, *, spec: str) -> dict[str, Tensor]:
    """All variables of a model.bin by name, aliases included; weights kept as integers come back as float32.

    Shapes: an int8 weight [rows, columns] has one scale a row, an int16 weight one scale; the value is integer / scale.
    Raises: CheckpointError if the file is cut short, of another version, or not of the named specification.
    Source: CTranslate2 4, python/ctranslate2/specs/model_spec.py, `ModelSpec._serialize`.
    """
    source = _Bytes(path)
    version = source.number("I", "the version")
    if version != VERSION:
        raise CheckpointError(f"{path.name} has CTranslate2's binary version {version}; only {VERSION} is read.")
    found = source.text("the specification's name")
    if found != spec:
        raise CheckpointError(f"{path.name} holds a {found!r}; a {spec!r} is expected.")
    source.number("I", "the revision")
    stored: dict[str, Tensor] = {}
    for index in range(source.number("I", "the number of variables")):
        name = source.text(f"the name of variable {index}")
        stored[name] = _variable(source, name)
    for index in range(source.number("I", "the number of aliases")):
        alias, target = source.text(f"alias {index}"), source.text(f"the target of alias {index}")
        if target not in stored:
            raise CheckpointError(f"{path.name} is damaged: {alias!r} stands for {target!r}, which is not there.")
        stored[alias] = stored[target]
    if source.at != len(source.data):
        raise CheckpointError(f"{path.name} is damaged: {len(source.data) - source.at} bytes follow its end.")
    return {name: _dequantised(name, value, stored) for name, value in stored.items() if not name.endswith("_scale")}


def _variable(source: _Bytes, name: str) -> Tensor:
    rank = source.number("B", f"the rank of {name}")
    shape = [source.number("I", f"the shape of {name}") for _ in range(rank)]
    code = source.number("B", f"the type of {name}")
    size = source.number("I", f"the size of {name}")
    if code not in _TYPES:
        raise CheckpointError(f"{source.name}: {name} has type {code}; {', '.join(map(str, _TYPES))} are known.")
    dtype = np.dtype(_TYPES[code])
    if size != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise CheckpointError(f"{source.name} is damaged: {name} of shape {shape} and type {code} has {size} bytes.")
    array = np.frombuffer(source.take(size, name), dtype=dtype).astype(dtype.newbyteorder("="))
    values = torch.from_numpy(array.reshape(shape))
    return values.view(torch.bfloat16) if code == _BFLOAT16 else values


def _dequantised(name: str, value: Tensor, stored: dict[str, Tensor]) -> Tensor:
    scale = stored.get(f"{name}_scale")
    if scale is None:
        return value
    return value.float() / scale.float().reshape(-1, *(1,) * (value.ndim - 1))
