"""Typed settings: the only place that reads the environment.

Order of precedence: environment (``HILUM_*``, nested with ``__``), then the TOML file named by
``HILUM_CONFIG_FILE``, then the defaults, which describe the embedded stack of ``make run``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hilum.errors import ConfigurationError
from hilum.errors.validation import problems

CamPolicy = Literal["all", "findings", "none"]
EngineChoice = Literal["auto", "tensorrt", "onnxruntime-cuda", "onnxruntime"]


_PROCESS_BYTES = 128 * 2**20
_BYTES_A_PIXEL = 10  # measured: 8.6


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class S3Settings(_Section):
    """Where objects are read. Without keys, boto3's own chain applies (IRSA, profile, …)."""

    endpoint_url: str | None = Field(
        default=None, description="Address of the S3 store. Not set: AWS."
    )
    region: str = Field(default="us-east-1", description="Region that requests are signed for.")
    access_key_id: str | None = Field(
        default=None,
        description="Access key. Not set: boto3 looks for credentials (IRSA, profile, …).",
    )
    secret_access_key: SecretStr | None = Field(
        default=None, description="Secret of the access key."
    )
    path_style: bool = Field(
        default=True,
        description="Put the bucket in the path of an address instead of the host name.",
    )
    connect_timeout_s: float = Field(
        default=5.0, gt=0, description="Longest wait for a connection to the store, seconds."
    )
    read_timeout_s: float = Field(
        default=30.0, gt=0, description="Longest wait for the next bytes from the store, seconds."
    )
    max_attempts: int = Field(default=3, ge=1, description="Attempts of botocore for each request.")


class Limits(_Section):
    """What one object may cost. The first three are checked before any decoder runs.

    The most that a grey film takes on its way from an object to a model's input and a preview was
    measured as 8.6 bytes for each pixel: JPEG 2000 of 16 bits, whose decoder holds the codestream
    twice and four bytes a pixel. The object lies in memory of its own that the decode process maps.
    """

    max_object_bytes: int = Field(
        default=256 * 2**20, gt=0, description="Largest object, in bytes as stored."
    )
    max_pixels: int = Field(
        default=64_000_000,
        gt=0,
        description="Largest film, Rows × Columns. Each pixel takes 10 bytes of max_decode_bytes.",
    )
    max_inflated_bytes: int = Field(
        default=512 * 2**20,
        gt=0,
        description="Largest data set after inflating a deflated transfer syntax, in bytes.",
    )
    max_decode_bytes: int = Field(
        default=768 * 2**20,
        ge=128 * 2**20,
        description=(
            "Memory of a decode process beside the object, in bytes (Linux): at least 128 MiB and "
            "10 bytes for each of max_pixels."
        ),
    )
    max_decode_s: float = Field(
        default=10.0,
        gt=0,
        description=(
            "Time for one object, seconds; then the decode process is killed and replaced."
        ),
    )

    @property
    def decode_bytes(self) -> int:
        """What a decode process needs for the largest film beside the object."""
        return _PROCESS_BYTES + _BYTES_A_PIXEL * self.max_pixels


class PreparedSettings(_Section):
    """The prepared-image cache (docs/operate/patient-data.md)."""

    mode: Literal["off", "read", "on"] = Field(
        default="off",
        description=(
            "Prepared-image cache: off; `read` uses entries but writes none; `on` does both."
        ),
    )
    secret: SecretStr | None = Field(
        default=None,
        description="Secret that encrypts the entries. `hilum cache secret` makes one.",
    )
    bucket: str | None = Field(
        default=None, description="Bucket of the entries. Not set: the bucket of each film."
    )
    prefix: str = Field(
        default=".hilum/prepared",
        description=(
            "Prefix of the entries' keys. It must begin with a hidden folder, which listings skip."
        ),
    )

    @field_validator("prefix")
    @classmethod
    def _hidden(cls, prefix: str) -> str:
        """Without slashes at its ends. What is below it is left out of listings and is evicted."""
        found = prefix.strip("/")
        first = found.partition("/")[0]
        if not first.startswith(".") or first in {".", ".."}:
            raise ValueError("the prefix must begin with a hidden folder, such as .hilum/prepared")
        return found


class DeidentifySettings(_Section):
    """What may leave and how (docs/operate/patient-data.md)."""

    results: bool = Field(
        default=False,
        description="The gateway replaces UIDs by pseudonyms and masks text in overlays.",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="Secret key from which pseudonyms are derived (at least 32 characters).",
    )
    regions: tuple[tuple[float, float, float, float], ...] = Field(
        default=(),
        description=(
            "Regions that are always covered in masked overlays: x0, y0, x1, y1 as shares of the "
            "film."
        ),
    )

    @model_validator(mode="after")
    def _within(self) -> DeidentifySettings:
        for x0, y0, x1, y1 in self.regions:
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError("each region must satisfy 0 <= x0 < x1 <= 1, y0 < y1 likewise")
        return self


class IdentitySettings(_Section):
    """Whether SQL knows who the films are of."""

    store: bool = Field(
        default=False,
        description="store Accession Number, Patient ID and Patient's Name, encrypted, in SQL",
    )
    secret: SecretStr | None = Field(
        default=None,
        description="encrypts them; at least 32 characters, the same for all processes",
    )


class WorkerSettings(_Section):
    """How a worker takes and runs jobs."""

    processes: int = Field(
        default=1, ge=1, description="Processes of a worker. Each has its own engine."
    )
    decode_threads: int = Field(
        default=2,
        ge=1,
        description=(
            "Threads of a process that fetch and decode. Each has its own decode process."
        ),
    )
    engine_threads: int = Field(
        default=0, ge=0, description="Threads of the engine on the CPU. 0: one for each core."
    )
    batch_size: int = Field(
        default=8, ge=1, description="Largest number of images in one call of the engine."
    )
    lease_s: float = Field(
        default=60.0,
        gt=0,
        description=(
            "Lease duration, seconds. A job whose lease is not renewed may be claimed by another "
            "worker."
        ),
    )
    max_job_attempts: int = Field(
        default=8,
        ge=1,
        description="A job is quarantined after so many workers in a row died over it.",
    )
    max_image_attempts: int = Field(
        default=3,
        ge=1,
        description="An image fails after so many workers died over it; the others go on.",
    )
    give_up_after_s: float = Field(
        default=86_400,
        gt=0,
        description=(
            "A job fails when transient errors have lasted so long, seconds, counted from the "
            "first failure in a row."
        ),
    )
    retry_base_s: float = Field(
        default=5.0,
        gt=0,
        description="Wait after the first transient error, seconds. It doubles each time.",
    )
    retry_max_s: float = Field(
        default=300.0, gt=0, description="Longest wait between attempts, seconds."
    )
    sweep_interval_s: float = Field(
        default=5.0, gt=0, description="Time between two runs of the sweeper, seconds."
    )
    republish_after_s: float = Field(
        default=30.0,
        gt=0,
        description="Age from which a published job may count as lost by the broker, seconds.",
    )
    task_time_limit_s: int = Field(
        default=900, gt=0, description="A process that works longer on one job is killed, seconds."
    )
    visibility_timeout_s: int = Field(
        default=1800,
        gt=0,
        description="The broker delivers an unacknowledged task again after this time, seconds.",
    )
    metrics_address: str | None = Field(
        default=None,
        description=(
            "host:port where the worker answers Prometheus at /metrics. Not set: no metrics."
        ),
    )
    cam_policy: CamPolicy = Field(
        default="all",
        description=(
            "Which Grad-CAM maps are kept: all, findings or none. Some jurisdictions allow none."
        ),
    )

    @model_validator(mode="after")
    def _time_limits(self) -> WorkerSettings:
        if self.task_time_limit_s >= self.visibility_timeout_s:
            raise ValueError("task_time_limit_s must be below visibility_timeout_s")
        return self


class TensorRTSettings(_Section):
    """The TensorRT engine."""

    library: Literal["tensorrt", "tensorrt_rtx"] = Field(
        default="tensorrt", description="tensorrt, or tensorrt_rtx for RTX cards."
    )
    engine_dir: Path | None = Field(
        default=None,
        description="Folder of the plans. Not set: `engines` below the cache directory.",
    )
    on_missing: Literal["error", "build"] = Field(
        default="error", description="If no plan fits this GPU: `error`, or `build` one (minutes)."
    )
    streams: int = Field(
        default=1, ge=1, le=16, description="has no effect; goes in the next release"
    )
    cuda_graphs: bool = Field(
        default=True, description="Launch each batch as one recorded CUDA graph."
    )


class TracingSettings(_Section):
    """Traces of requests and jobs, sent to a collector. They hold ids, codes and times only."""

    endpoint: HttpUrl | None = Field(
        default=None,
        description=(
            "Address to which spans are sent by OTLP over HTTP, such as "
            "`http://collector:4318/v1/traces`. Not set: no traces. Needs `hilum[tracing]`."
        ),
    )
    sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the traces that begin here which are sent.",
    )
    timeout_s: float = Field(default=5.0, gt=0, description="Longest wait for the collector.")


class GatewaySettings(_Section):
    """The HTTP side."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8080, ge=0, le=65535, description="Port to listen on. 0: any free port."
    )
    max_images_per_study: int = Field(default=2000, ge=1, description="Most images in one study.")
    max_body_bytes: int = Field(
        default=2 * 2**20, gt=0, description="Largest body of a request, in bytes."
    )
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="A request whose body takes longer to arrive is refused, seconds.",
    )
    header_timeout_s: float = Field(
        default=10.0,
        gt=0,
        description="A connection that sends no whole request head for so long is closed, seconds.",
    )
    max_connections: int = Field(
        default=1000, ge=1, description="Most open connections. Any further one is closed at once."
    )
    allowed_uri_prefixes: tuple[str, ...] = Field(
        default=("s3://",),
        description="Buckets and folders. Only objects below one of them may be scored.",
    )
    tenant_uri_prefixes: dict[str, tuple[str, ...]] = Field(
        default={},
        description=(
            "Buckets and folders of each tenant, as JSON. No other tenant may name objects below "
            "them, and the tenant may name no others."
        ),
    )
    render_threads: int = Field(default=2, ge=1, description="Overlays rendered at the same time.")
    render_queue: int = Field(
        default=16, ge=0, description="Most overlays that wait. Any further one is answered 503."
    )
    overlay_max_side: int = Field(
        default=1024, ge=64, description="Longest side of a PNG overlay, pixels."
    )


class Settings(BaseSettings):
    """All settings of all processes. Build with :func:`load`."""

    model_config = SettingsConfigDict(
        env_prefix="HILUM_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    database_url: str = Field(
        default="sqlite:///var/hilum.db", description="sqlite:///FILE or postgresql://…"
    )
    broker_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"), description="Address of Redis or Valkey."
    )
    model_uri: str = Field(
        default="models/demo", description="The model package: a folder, an archive or s3://…"
    )
    engine: EngineChoice = Field(
        default="auto",
        description=(
            "Engine that runs the graph: auto, tensorrt, onnxruntime-cuda or onnxruntime."
        ),
    )
    trusted_signers: Path | None = Field(
        default=None,
        description=(
            "File of keys that may sign packages. If set, packages signed by others are refused."
        ),
    )
    cache_dir: Path = Field(
        default=Path("var/cache"),
        description=(
            "Fetched packages and plans. Training keeps prepared films here, which are patient "
            "data."
        ),
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO",
        description=(
            "Lowest level of hilum's own log lines. DEBUG also shows tracebacks on the command "
            "line."
        ),
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description=(
            "Form of the log: `json` (one object a line) or `text`. `auto`: gateway and worker "
            "write JSON, commands write text."
        ),
    )
    s3: S3Settings = S3Settings()
    limits: Limits = Limits()
    prepared: PreparedSettings = PreparedSettings()
    deidentify: DeidentifySettings = DeidentifySettings()
    identity: IdentitySettings = IdentitySettings()
    worker: WorkerSettings = WorkerSettings()
    tensorrt: TensorRTSettings = TensorRTSettings()
    gateway: GatewaySettings = GatewaySettings()
    tracing: TracingSettings = TracingSettings()

    @field_validator("limits")
    @classmethod
    def _consistent(cls, limits: Limits) -> Limits:
        """Films within one limit must not be over the other."""
        if limits.max_decode_bytes < limits.decode_bytes:
            raise ValueError(
                f"max_decode_bytes must be at least {limits.decode_bytes} for the films that "
                "max_pixels allows; raise it or lower max_pixels"
            )
        return limits

    @property
    def service_log_style(self) -> Literal["json", "text"]:
        """How gateway and worker write their log."""
        return "json" if self.log_format == "auto" else self.log_format

    @property
    def engine_dir(self) -> Path:
        """Where TensorRT's plans are kept."""
        return self.tensorrt.engine_dir or self.cache_dir / "engines"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the TOML file."""
        file = os.environ.get("HILUM_CONFIG_FILE")
        toml = (TomlConfigSettingsSource(settings_cls, Path(file)),) if file else ()
        return (init_settings, env_settings, *toml)


def load() -> Settings:
    """The settings of this process.

    Raises:
        ConfigurationError: a value is missing, malformed or contradicts another. The text
            names the setting, never its value (it may be a secret).
    """
    file = os.environ.get("HILUM_CONFIG_FILE")
    if file and not Path(file).is_file():
        raise ConfigurationError(f"HILUM_CONFIG_FILE names {file}, which is not a file.")
    try:
        return Settings()
    except ValidationError as error:
        text = problems(error, lambda parts: f"HILUM_{'__'.join(parts).upper()}")
        raise ConfigurationError(text) from None
