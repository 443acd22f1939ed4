"""The ONNX Runtime engine: right numbers, and the graphs it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support import tiny_package

from hilum.engines.loading import open_engine
from hilum.engines.onnx_file import has_external_data
from hilum.engines.onnxruntime import OnnxRuntimeEngine
from hilum.errors import (
    EngineFailedError,
    GoldenCheckError,
    MissingExtraError,
    PackageError,
    PackageSchemaError,
)
from hilum.packages.load import Package, verify
from hilum.packages.manifest import GOLDEN, GRAPH
from hilum.settings import Settings


def test_outputs_are_those_of_the_graph(tiny: Package) -> None:
    engine = OnnxRuntimeEngine(tiny, threads=1)
    images = np.random.default_rng(1).integers(0, 256, (3, 1, 64, 64), dtype=np.uint8)
    output = engine.run(images)
    # The graph of tiny_package, in NumPy.
    grid = images.reshape(3, 1, 4, 16, 4, 16).mean(axis=(3, 5)) / 255
    weights = np.linspace(-6, 6, 6).reshape(1, 6, 1, 1)
    maps = grid * weights + np.linspace(2, -2, 6).reshape(1, 6, 1, 1)
    np.testing.assert_allclose(output.cam, np.maximum(maps, 0), atol=1e-5)
    expected = 1 / (1 + np.exp(-maps.mean(axis=(2, 3))))
    np.testing.assert_allclose(output.probability, expected, atol=1e-6)
    assert output.probability.dtype == output.cam.dtype == np.float32


def test_a_run_that_fails_is_transient_and_says_no_more_than_needed(tiny: Package) -> None:
    engine = OnnxRuntimeEngine(tiny, threads=1)
    with pytest.raises(EngineFailedError) as caught:
        engine.run(np.zeros((1, 1, 32, 32), dtype=np.uint8))
    assert caught.value.transient


def change(edit: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        model = tiny_package.graph()
        edit(model)
        path.write_bytes(model.SerializeToString())

    return spoil


def external(model: onnx.ModelProto) -> None:
    weights = next(t for t in model.graph.initializer if t.name == "weights")
    onnx.external_data_helper.set_external_data(weights, "/etc/hostname")
    weights.ClearField("raw_data")


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("logit", TensorProto.FLOAT, None))


def renamed_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


REFUSALS: dict[str, tuple[type[PackageError], Callable[[Path], object]]] = {
    "not ONNX": (PackageError, lambda path: path.write_bytes(b"\xff" * 100)),
    "empty": (PackageError, lambda path: path.write_bytes(b"")),
    "cut short": (PackageError, lambda path: path.write_bytes(path.read_bytes()[:-5])),
    "weights elsewhere": (PackageError, change(external)),
    "unknown operator": (PackageError, change(lambda m: setattr(m.graph.node[0], "op_type", "X"))),
    "other size": (
        PackageSchemaError,
        lambda path: path.write_bytes(tiny_package.graph(size=32).SerializeToString()),
    ),
    "fixed batch": (PackageSchemaError, change(fixed_batch)),
    "another output": (PackageSchemaError, change(other_output)),
    "another input name": (PackageSchemaError, change(renamed_input)),
    "another input type": (PackageSchemaError, change(float_input)),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_graphs_refused(case: str, copy_of_tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    expected, spoil = REFUSALS[case]
    spoil(copy_of_tiny / GRAPH)
    package = tiny_package.resealed(copy_of_tiny)
    with pytest.raises(PackageError) as caught:
        OnnxRuntimeEngine(package, threads=1)
    assert type(caught.value) is expected
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""  # ONNX Runtime writes nothing of its own


def test_external_data_is_found_wherever_it_hides() -> None:
    model = tiny_package.graph()
    assert not has_external_data(model.SerializeToString())
    tensor = onnx.numpy_helper.from_array(np.zeros(1, np.float32), "deep")
    tensor.data_location = TensorProto.EXTERNAL
    inner = helper.make_graph([], "inner", [], [], [tensor])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model.graph.node.append(branch)
    assert has_external_data(model.SerializeToString())


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _message(field: int, content: bytes, more: int = 0) -> bytes:
    """A field of bytes; ``more`` are bits of its tag beyond those that protobuf keeps."""
    return _varint(field << 3 | 2 | more) + _varint(len(content)) + content


EXTERNAL = _message(8, b"w") + _message(13, _message(1, b"location") + _message(2, b"secret.bin"))
GRAPH_FIELD, INITIALIZER = 7, 5  # of ModelProto, of GraphProto
ELSEWHERE = 1 << 32


def test_external_data_does_not_hide_behind_what_protobuf_reads_otherwise() -> None:
    """Protobuf drops all but 32 bits of a tag: what is unknown here would be weights there."""
    external_data = _message(8, b"w") + _message(13, b"", ELSEWHERE)
    data_location = _message(8, b"w") + _varint(14 << 3 | ELSEWHERE) + b"\x01"
    for data in (
        _message(GRAPH_FIELD, _message(INITIALIZER, external_data)),
        _message(GRAPH_FIELD, _message(INITIALIZER, data_location)),
        _message(GRAPH_FIELD, _message(INITIALIZER, EXTERNAL, ELSEWHERE)),
        _message(GRAPH_FIELD, _message(INITIALIZER, EXTERNAL), ELSEWHERE),
        _message(0, EXTERNAL),  # no field has number 0
        b"\x3b" + _message(INITIALIZER, EXTERNAL) + b"\x3c",  # a group
    ):
        with pytest.raises(PackageError, match="not a valid ONNX file"):
            has_external_data(data)


def test_a_message_in_parts_and_in_long_numbers_is_still_read() -> None:
    whole = _message(GRAPH_FIELD, _message(2, b"g"))
    assert has_external_data(whole + _message(GRAPH_FIELD, _message(INITIALIZER, EXTERNAL)))
    longer = bytes([INITIALIZER << 3 | 2 | 0x80, 0x80, 0x00])  # the same tag in three bytes
    assert has_external_data(_message(GRAPH_FIELD, longer + _varint(len(EXTERNAL)) + EXTERNAL))
    size = bytes([len(EXTERNAL) | 0x80, 0x80, 0x80, 0x80, 0x00])
    tag = _varint(INITIALIZER << 3 | 2)
    assert has_external_data(_message(GRAPH_FIELD, tag + size + EXTERNAL))
    too_long = _varint(len(EXTERNAL) | 1 << 32)  # protobuf would refuse it, or drop the upper half
    with pytest.raises(PackageError, match="is incomplete"):
        has_external_data(_message(GRAPH_FIELD, tag + too_long + EXTERNAL))


def test_endless_nesting_is_refused() -> None:
    data = b""
    for _ in range(200):  # GraphProto.node, NodeProto.attribute, AttributeProto.g
        data = _message(1, _message(5, _message(6, data)))
    with pytest.raises(PackageError, match="not a valid ONNX file"):
        has_external_data(_message(GRAPH_FIELD, data))


def test_a_graph_in_onnxruntimes_own_format_is_not_one(
    tiny: Package, copy_of_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would open it, and the search for external data knows ONNX only."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(tiny.read(GRAPH), options, providers=["CPUExecutionProvider"])
    (copy_of_tiny / GRAPH).write_bytes((tmp_path / "model.ort").read_bytes())
    # As if it were a message of protobuf too.
    monkeypatch.setattr("hilum.engines.onnxruntime.has_external_data", lambda graph: False)
    monkeypatch.setattr("hilum.engines.onnxruntime.opset", lambda graph: tiny.manifest.opset)
    with pytest.raises(PackageError, match="cannot load"):
        OnnxRuntimeEngine(tiny_package.resealed(copy_of_tiny), threads=1)


def test_without_onnxruntime_the_extra_is_named(
    tiny: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"hilum\[serve\]"):
        OnnxRuntimeEngine(tiny)


def write_golden(folder: Path, tiny: Package, **changes: object) -> None:
    """Put the golden.npz of ``tiny`` into ``folder``, with arrays replaced or added."""
    with np.load(tiny.folder / GOLDEN) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    np.savez(folder / GOLDEN, **{**content, **changes})  # type: ignore[arg-type]


def test_the_golden_check_passes_within_tolerance_and_fails_beyond(
    tiny: Package, copy_of_tiny: Path
) -> None:
    with np.load(copy_of_tiny / GOLDEN) as arrays:
        probability, cam = arrays["probability"], arrays["cam"]
    tolerance = 1e-3  # the manifest's default
    off = np.zeros_like(probability)
    off[1, 2] = 1
    spot = np.zeros_like(cam)
    spot[0, 3, 1, 1] = cam.max()

    def opens(**changes: object) -> bool:
        write_golden(copy_of_tiny, tiny, **changes)
        try:
            open_engine(tiny_package.resealed(copy_of_tiny), Settings())
        except GoldenCheckError:
            return False
        return True

    assert opens(probability=probability + np.float32(0.9 * tolerance) * off)
    assert not opens(probability=probability + np.float32(1.1 * tolerance) * off)
    assert opens(cam=cam + np.float32(0.9 * tolerance) * spot)
    assert not opens(cam=cam + np.float32(1.1 * tolerance) * spot)
    assert not opens(probability=np.full_like(probability, np.nan))


GOLDEN_REFUSALS: dict[str, dict[str, object]] = {
    "another size": {"image": np.zeros((2, 1, 32, 32), np.uint8)},
    "no image": {"image": np.zeros((0, 1, 64, 64), np.uint8)},
    "another type": {"image": np.zeros((2, 1, 64, 64), np.float32)},
    "another count": {"image": np.zeros((3, 1, 64, 64), np.uint8)},
    "a scalar": {"image": np.uint8(0)},
    "a pickle": {"image": np.array([{"an": "object"}], dtype=object)},
    "another array": {"more": np.zeros(1)},
}


@pytest.mark.parametrize("case", GOLDEN_REFUSALS)
def test_golden_files_refused(case: str, tiny: Package, copy_of_tiny: Path) -> None:
    write_golden(copy_of_tiny, tiny, **GOLDEN_REFUSALS[case])
    with pytest.raises(PackageSchemaError):
        open_engine(tiny_package.resealed(copy_of_tiny), Settings())


def test_a_golden_file_that_is_no_archive_or_inflates_too_far(
    copy_of_tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = verify(copy_of_tiny)
    monkeypatch.setattr("hilum.engines.golden._MAX_GOLDEN_BYTES", 1000)
    with pytest.raises(PackageSchemaError, match="unpacks to over"):
        open_engine(package, Settings())
    (copy_of_tiny / GOLDEN).write_bytes(b"not a zip")
    package = tiny_package.resealed(copy_of_tiny)
    with pytest.raises(PackageSchemaError, match="cannot be read"):
        open_engine(package, Settings())
