"""Results as JSON, exit codes, and what may be written where."""

from __future__ import annotations

import base64
import datetime
import enum
import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secgear import errors
from secgear.cli import output
from secgear.errors import SecGearError


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int


class Color(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"hi", base64.b64encode(b"hi").decode()),
        (memoryview(b"hi"), base64.b64encode(b"hi").decode()),
        (math.nan, None),
        (datetime.date(2024, 1, 2), "2024-01-02"),
        (Color.RED, "red"),
        (Point(1, 2), {"x": 1, "y": 2}),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([1 + 2j]), [[1.0, 2.0]]),
        (np.array(["2024-01-01"], "datetime64[D]"), ["2024-01-01"]),
        (np.float32(0.5), 0.5),
        (pa.table({"a": [1, 2], "b": ["x", None]}), [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
        (pa.record_batch({"a": [b"hi"]}), [{"a": "aGk="}]),
        ({1: "a"}, {"1": "a"}),
        ({(1, 2): 3}, {"[1,2]": 3}),
        ({Point(1, 2): 3}, {'{"x":1,"y":2}': 3}),
        ({frozenset([1]): 3}, {"[1]": 3}),
    ],
)
def test_whatever_an_ecall_returns_is_json(value: Any, expected: Any) -> None:
    assert json.loads(output.to_json(value)) == expected
    assert json.loads(output.to_json({"result": [value]}, indent=2)) == {"result": [expected]}


def test_what_is_no_json_is_an_error_of_ours() -> None:
    with pytest.raises(SecGearError, match="type object"):
        output.to_json(object())


def _kinds(kind: type[SecGearError]) -> list[type[SecGearError]]:
    return [kind, *(found for inner in kind.__subclasses__() for found in _kinds(inner))]


def test_every_error_has_a_documented_exit_code() -> None:
    documented = {1, 2, 3, 4, 5, 6, 130}
    for kind in _kinds(SecGearError):
        code = output.exit_code(kind.__new__(kind, "what"))  # some are made of something else
        assert code in documented
        for parent, expected in (
            (errors.ImageError, 3),
            (errors.BuildError, 3),
            (errors.PlatformUnavailable, 4),
            (errors.LaunchFailed, 4),
            (errors.CallError, 5),
            (errors.CollectionFailed, 4),
            (errors.EvidenceRefused, 6),
            (errors.ServiceError, 1),
            (output.UsageError, 2),
        ):
            if issubclass(kind, parent):
                assert code == expected, kind


def test_only_what_the_command_wrote_itself_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x"
    output.check_target(path, b"ours")
    path.write_bytes(b"")
    output.check_target(path, b"ours")
    path.write_bytes(b"ours, too")
    output.check_target(path, b"ours")
    for content in (b"our", b"theirs"):
        path.write_bytes(content)
        with pytest.raises(output.UsageError, match="something else"):
            output.check_target(path, b"ours")
    with pytest.raises(output.UsageError, match="exists already"):
        output.check_target(path)
    with pytest.raises(output.UsageError, match="folder"):
        output.check_target(tmp_path, b"")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(output.UsageError, match="regular"):
        output.check_target(tmp_path / "pipe", b"")
    with pytest.raises(output.UsageError, match="regular"):
        output.check_target(Path(os.devnull), b"")


def test_a_file_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(output.UsageError, match="can't be written"):
        output.write_file(tmp_path / "nowhere" / "x", b"data")
    (tmp_path / "folder").mkdir()
    with pytest.raises(output.UsageError, match="can't be written"):
        output.write_file(tmp_path / "folder", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_reading_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert output.read(tmp_path / "x", 5) == b"12345"
    with pytest.raises(output.UsageError, match="larger than 4 bytes"):
        output.read(tmp_path / "x", 4)


@given(st.lists(st.sampled_from(["run", "--json", "--", "x"])))
def test_json_is_asked_for_before_the_double_dash(arguments: list[str]) -> None:
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["secgear", *arguments])
        assert output.wants_json() == ("--json" in before)
