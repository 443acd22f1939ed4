"""Parse a package's ONNX graph into a TensorRT network, and check its inputs and outputs.

Networks are strongly typed: TensorRT computes in the types of the graph. The export chooses the
precision (``hilum export --precision``), because TensorRT 11 has no flags to change it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hilum.engines.onnx_file import has_external_data
from hilum.engines.tensorrt.library import label, shape_of, trt
from hilum.engines.tensorrt.objects import Messages, make, shorten
from hilum.errors import EngineBuildError, PackageError
from hilum.packages.manifest import GRAPH, Manifest


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Inputs and outputs of a graph: name → type, and shape without the batch dimension."""

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    outputs: dict[str, tuple[str, tuple[int, ...]]]


def signature(manifest: Manifest) -> Signature:
    """The inputs and outputs that the manifest promises. Types have TensorRT's names."""
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
    """Return the network of ``graph``, and the parser, which owns the weights and must outlive it.

    Raises:
        PackageError: the graph is damaged, or keeps weights in another file.
        EngineBuildError: the parser fails (the detail quotes it), or the inputs or outputs are not
            ``promised``.
        EngineUnavailableError, DeviceOutOfMemoryError: TensorRT cannot create a parser.
    """
    if has_external_data(graph):
        # The parser would read any file that the graph names, relative to the working directory.
        raise PackageError(f"{GRAPH} keeps weights in another file. Export it as one file.")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if network is None:
        raise EngineBuildError(f"{label()} cannot create a network: {messages.quote()}")
    parser = make(trt.OnnxParser, network, messages=messages)
    if not parser.parse(graph):
        raise EngineBuildError(
            f"{label()} cannot parse {GRAPH}: {parser_errors(parser) or messages.quote()}",
            next_step="Export with another --precision, or set HILUM_ENGINE to `onnxruntime`.",
        )
    _check(network, promised)
    return network, parser


def parser_errors(parser: trt.OnnxParser) -> str:
    """The errors of the parser, each with its node."""
    texts = []
    for position in range(parser.num_errors):
        error = parser.get_error(position)
        node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        texts.append(f"{node}{error.desc()} [{error.code().name}]")
    return shorten(texts)


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
                f"{GRAPH} has the {kind}s {', '.join(sorted(described)) or 'none'}, "
                f"but must have {', '.join(sorted(expected))}."
            )
        for name, (dtype, shape) in expected.items():
            if described[name] != (dtype, (-1, *shape)):
                raise EngineBuildError(
                    f"{GRAPH}: {kind} {name} is {described[name][0]} {described[name][1]}, "
                    f"but must be {dtype} {(-1, *shape)}."
                )
