"""From a package's ONNX graph to a TensorRT network whose inputs and outputs are the promised ones.

Networks are strongly typed: TensorRT computes in the types that the graph has. Precision is
decided at export (``hilum export --precision``), never here; the flags that used to override it
are gone in TensorRT 11.
"""

from __future__ import annotations

from dataclasses import dataclass

from hilum.engines.onnx_file import has_external_data
from hilum.engines.tensorrt.library import label, shape_of, trt
from hilum.engines.tensorrt.messages import Messages, quoted
from hilum.engines.tensorrt.objects import make
from hilum.errors import EngineBuildError, PackageError
from hilum.packages.manifest import GRAPH, Manifest


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Inputs and outputs of a graph, but for the batch: name → type and shape."""

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[str, tuple[int, ...]]]


def signature(manifest: Manifest) -> Signature:
    """What the package contract promises of the graph. Types by TensorRT's names."""
    side, labels = manifest.input.size, len(manifest.label_set.labels)
    return Signature(
        inputs={"image": ("UINT8", (1, side, side))},
        outputs={
            "probability": ("FLOAT", (labels,)),
            "cam": ("FLOAT", (labels, *manifest.cam_grid)),
        },
    )


def parse(
    builder: trt.Builder, graph: bytes, promised: Signature, messages: Messages
) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
    """The network of ``graph``, and the parser, which owns the weights and must outlive it.

    Raises:
        PackageError: the graph is damaged, or keeps weights in another file.
        EngineBuildError: the parser does not take the graph, with its own words; or inputs and
            outputs are not ``promised``.
        EngineUnavailableError, DeviceOutOfMemoryError: TensorRT makes no parser.
    """
    if has_external_data(graph):
        # The parser would read whatever file the graph names, relative to the working directory.
        raise PackageError(f"{GRAPH} keeps weights in another file; export it as one file.")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if network is None:
        raise EngineBuildError(f"{label()} makes no network: {messages.quote()}")
    parser = make(trt.OnnxParser, network, messages=messages)
    if not parser.parse(graph):
        raise EngineBuildError(
            f"{label()} cannot parse {GRAPH}: {parser_errors(parser) or messages.quote()}",
            next_step="Export the model with another --precision, or use engine `onnxruntime`.",
        )
    _check(network, promised)
    return network, parser


def parser_errors(parser: trt.OnnxParser) -> str:
    """What the parser has to say, each error with its node."""
    texts = []
    for position in range(parser.num_errors):
        error = parser.get_error(position)
        node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        texts.append(f"{node}{error.desc()} [{error.code().name}]")
    return quoted(texts)


def _check(network: trt.INetworkDefinition, promised: Signature) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for kind, found, expected in (
        ("input", inputs, promised.inputs),
        ("output", outputs, promised.outputs),
    ):
        described = {t.name: (t.dtype.name, shape_of(t.shape)) for t in found}
        if set(described) != set(expected):
            raise EngineBuildError(
                f"{GRAPH} has as {kind}s {', '.join(sorted(described)) or 'none'}; "
                f"expected {', '.join(sorted(expected))}."
            )
        for name, (dtype, shape) in expected.items():
            if described[name] != (dtype, (-1, *shape)):
                raise EngineBuildError(
                    f"{GRAPH}: {kind} {name} is {described[name][0]} {described[name][1]}; "
                    f"expected {dtype} {(-1, *shape)}."
                )
