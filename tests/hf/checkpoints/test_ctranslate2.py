"""The reader of CTranslate2's binary file, against files packed here byte by byte."""

import struct
from pathlib import Path

import pytest
import torch

from regard.errors import CheckpointError
from regard.hf.checkpoints import ctranslate2

CODES = {"f": 0, "b": 1, "h": 2, "i": 3, "e": 4}


def text(value: str) -> bytes:
    raw = value.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def variable(name: str, shape: tuple[int, ...], form: str, numbers: list[float], *, code: int | None = None) -> bytes:
    data = struct.pack(f"<{len(numbers)}{form}", *numbers)
    head = text(name) + struct.pack("<B", len(shape)) + struct.pack(f"<{len(shape)}I", *shape)
    return head + struct.pack("<BI", CODES[form] if code is None else code, len(data)) + data


def packed(*variables: bytes, aliases: tuple[tuple[str, str], ...] = (), version: int = 6, spec: str = "Spec") -> bytes:
    tail = struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases)
    return struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables)) + b"".join(variables) + tail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


def test_every_type_aliases_and_scalars(file: Path) -> None:
    bfloat16 = struct.unpack("<2H", struct.pack("<2f", 1.0, -2.5)[2:4] + struct.pack("<2f", 1.0, -2.5)[6:8])
    file.write_bytes(
        packed(
            variable("full", (2, 2), "f", [1.5, -2.0, 0.0, 3.25]),
            variable("half", (3,), "e", [0.5, -0.25, 8.0]),
            variable("brain", (2,), "h", [n - 65536 if n > 32767 else n for n in bfloat16], code=5),
            variable("count", (), "i", [-7]),
            variable("heads", (), "h", [6]),
            aliases=(("tied", "full"),),
        )
    )
    read = ctranslate2.read(file, spec="Spec")
    assert list(read) == ["full", "half", "brain", "count", "heads", "tied"]
    assert read["full"].tolist() == read["tied"].tolist() == [[1.5, -2.0], [0.0, 3.25]]
    assert read["half"].tolist() == [0.5, -0.25, 8.0]
    assert read["brain"].tolist() == [1.0, -2.5]
    assert (read["count"].item(), read["heads"].item()) == (-7, 6)


def test_int8_has_a_scale_for_each_row_and_int16_one(file: Path) -> None:
    file.write_bytes(
        packed(
            variable("rows/weight", (2, 2), "b", [127, -64, 10, 20]),
            variable("rows/weight_scale", (2,), "f", [127.0, 40.0]),
            variable("whole/weight", (2, 2), "h", [1000, -500, 250, 0]),
            variable("whole/weight_scale", (), "f", [500.0]),
        )
    )
    read = ctranslate2.read(file, spec="Spec")
    assert list(read) == ["rows/weight", "whole/weight"]
    torch.testing.assert_close(read["rows/weight"], torch.tensor([[1.0, -64 / 127], [0.25, 0.5]]), rtol=1e-7, atol=0)
    torch.testing.assert_close(read["whole/weight"], torch.tensor([[2.0, -1.0], [0.5, 0.0]]), rtol=0, atol=0)


def test_a_file_cut_anywhere_is_told(file: Path) -> None:
    whole = packed(variable("a/weight", (2,), "f", [1.0, 2.0]), aliases=(("b", "a/weight"),))
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"model\.bin is cut short: .* needs \d+ bytes, and \d+ are left"):
            ctranslate2.read(file, spec="Spec")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (packed(version=5), r"binary version 5; only 6 is read"),
        (packed(spec="TransformerSpec"), r"holds a 'TransformerSpec'; a 'Spec' is expected"),
        (packed() + b"more", r"is damaged: 4 bytes follow its end"),
        (packed(variable("a", (3,), "f", [1.0])), r"is damaged: a of shape \[3\] and type 0 has 4 bytes"),
        (packed(variable("a", (1,), "f", [1.0], code=9)), r"a has type 9; 0, 1, 2, 3, 4, 5 are known"),
        (packed(aliases=(("b", "a"),)), r"is damaged: 'b' stands for 'a', which is not there"),
        (struct.pack("<IH", 6, 2) + b"\xff\xff", r"the specification's name before byte 8 is not text"),
    ],
)
def test_what_is_not_such_a_file_is_told(file: Path, data: bytes, message: str) -> None:
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        ctranslate2.read(file, spec="Spec")
