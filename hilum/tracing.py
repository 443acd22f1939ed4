"""Traces with OpenTelemetry, from the gateway over the broker to the worker. Off by default.

A trace context travels as a W3C ``traceparent`` in the header of a message. Spans carry opaque ids
(``st_…``, ``jb_…``), codes and numbers: never an address, a UID, a tenant or a text of an error.

While tracing is off, :func:`span` costs a comparison, and nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, Unpack, cast

from hilum import __version__
from hilum.errors import HilumError, MissingExtraError
from hilum.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Name = Literal["request", "publish", "job", "fetch", "decode", "engine", "commit"]
TRACEPARENT: Final = "traceparent"
# W3C Trace Context, section 3.2, version 00.
_FORM: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_KINDS: Final = {"request": "SERVER", "publish": "PRODUCER", "job": "CONSUMER"}
_OFF: Final = nullcontext()
_SHARED: Final = "hilum.shared"  # the key of a context's attributes


class Attributes(TypedDict, total=False):
    """All that a span may carry."""

    study: str  # st_…
    job: str  # jb_…
    image: int  # its position in the study
    images: int
    method: str
    route: str  # the template
    status: int
    queue: str
    engine: str
    code: str


class _State:
    tracer: Tracer | None = None
    provider: TracerProvider | None = None


def configure(settings: TracingSettings, *, service: str) -> None:
    """Trace from now on, if the settings say so. Call once a process, after any fork.

    Args:
        settings: with an endpoint, or tracing stays off.
        service: the name of this service, such as ``hilum-gateway``.

    Raises:
        MissingExtraError: OpenTelemetry's SDK or exporter is not installed.
    """
    if settings.endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio  # noqa: PLC0415
    except ModuleNotFoundError:
        raise MissingExtraError(
            "HILUM_TRACING__ENDPOINT needs OpenTelemetry: install `hilum[tracing]`."
        ) from None
    # A collector that is away is no error of hilum: the exporter's own lines would be many.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(settings.sample_ratio),
        resource=Resource({"service.name": service, "service.version": __version__}),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=str(settings.endpoint), timeout=settings.timeout_s)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _State.provider, _State.tracer = provider, provider.get_tracer("hilum", __version__)


def close() -> None:
    """Send what is left, and stop tracing."""
    provider, _State.provider, _State.tracer = _State.provider, None, None
    if provider is not None:
        provider.shutdown()


def is_on() -> bool:
    """Whether spans are made."""
    return _State.tracer is not None


def span(
    name: Name, *, parent: str | None = None, **attributes: Unpack[Attributes]
) -> AbstractContextManager[None]:
    """A span around a block. In another thread it is a child of the span here only if the context
    is carried there (:func:`hilum.logs.carry`).

    Args:
        name: of the span.
        parent: the ``traceparent`` of a request or message, if it had one. One that is malformed
            is ignored. Without it, the parent is the current span.
        attributes: see :class:`Attributes`; :func:`add` sets more of them later.
    """
    if _State.tracer is None:
        return _OFF
    return _span(_State.tracer, name, parent, attributes)


def under(parent: str | None, **attributes: Unpack[Attributes]) -> AbstractContextManager[None]:
    """Make every span of the block a child of ``parent``, with these attributes beside its own."""
    return _OFF if _State.tracer is None else _under(parent, attributes)


def record(
    name: Name,
    *,
    parent: str | None,
    began_ns: int,
    ended_ns: int,
    **attributes: Unpack[Attributes],
) -> None:
    """Make a span of what has ended, for work that several jobs shared: each has one of its own.

    Args:
        name, parent, attributes: see :func:`span`.
        began_ns, ended_ns: by :func:`time.time_ns`.
    """
    if _State.tracer is None:
        return
    context, named = _context(parent), _named(attributes)
    opened = _State.tracer.start_span(name, context=context, start_time=began_ns, attributes=named)
    opened.end(ended_ns)


class Open:
    """A span that another thread may end. Its children name its ``header`` as their parent."""

    def __init__(self, opened: Span | None) -> None:
        self._span = opened
        self.header = None if opened is None else _header(opened)

    def end(self, **attributes: Unpack[Attributes]) -> None:
        """End the span."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))
            self._span.end()


def start(name: Name, *, parent: str | None = None, **attributes: Unpack[Attributes]) -> Open:
    """As :func:`span`, for work that several threads share, such as a job among others. The span is
    not the current one of this thread."""
    if _State.tracer is None:
        return Open(None)
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - only if it is on

    kind = SpanKind[_KINDS.get(name, "INTERNAL")]
    context, named = _context(parent), _named(attributes)
    return Open(_State.tracer.start_span(name, context=context, kind=kind, attributes=named))


def add(**attributes: Unpack[Attributes]) -> None:
    """Set attributes of the current span."""
    if _State.tracer is None:
        return
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - only if it is on

    get_current_span().set_attributes(_named(attributes))


def headers() -> dict[str, str]:
    """The headers of a message that carry the current span; empty if there is none."""
    if _State.tracer is None:
        return {}
    from opentelemetry.trace import get_current_span  # noqa: PLC0415 - only if it is on

    header = _header(get_current_span())
    return {} if header is None else {TRACEPARENT: header}


def checked(parent: object) -> str | None:
    """A ``traceparent`` that came from outside, if it has the form of one."""
    return parent if isinstance(parent, str) and _FORM.fullmatch(parent) else None


@contextmanager
def _under(parent: str | None, attributes: Attributes) -> Iterator[None]:
    from opentelemetry import context  # noqa: PLC0415 - see above

    token = context.attach(context.set_value(_SHARED, _named(attributes), _context(parent)))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def _span(tracer: Tracer, name: Name, parent: str | None, attributes: Attributes) -> Iterator[None]:
    from opentelemetry.context import get_value  # noqa: PLC0415 - see above
    from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415 - see above

    shared = cast("dict[str, Any]", get_value(_SHARED) or {})
    opened = tracer.start_as_current_span(
        name,
        context=_context(parent),
        kind=SpanKind[_KINDS.get(name, "INTERNAL")],
        attributes={**shared, **_named(attributes)},
        record_exception=False,  # its text may describe the image
        set_status_on_exception=False,
    )
    with opened as current:
        try:
            yield
        except BaseException as error:
            code = error.code if isinstance(error, HilumError) else type(error).__name__
            current.set_attributes(_named({"code": code}))
            current.set_status(Status(StatusCode.ERROR))
            raise


def _header(opened: Span) -> str | None:
    context = opened.get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _context(parent: str | None) -> Any:
    text = checked(parent)
    if text is None:
        return None
    from opentelemetry import trace  # noqa: PLC0415 - see above

    _, trace_id, span_id, flags = text.split("-")
    remote = trace.SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(flags, 16)),
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(remote))


def _named(attributes: Attributes) -> dict[str, Any]:
    known = Attributes.__annotations__
    return {f"hilum.{name}": value for name, value in attributes.items() if name in known}
