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
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class S3Settings(_Section):
    """Where objects are read. Without keys, boto3's own chain applies (IRSA, profile, …)."""

    endpoint_url: str | None = None
    """Address of the S3 store. Not set: AWS."""
    region: str = "us-east-1"
    """Region that requests are signed for."""
    access_key_id: str | None = None
    """Access key. Not set: boto3 looks for credentials (IRSA, profile, …)."""
    secret_access_key: SecretStr | None = None
    """Secret of the access key."""
    path_style: bool = True
    """Put the bucket in the path of an address instead of the host name."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for a connection to the store, seconds."""
    read_timeout_s: float = Field(default=30.0, gt=0)
    """Longest wait for the next bytes from the store, seconds."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts of botocore for each request."""


class Limits(_Section):
    """What one object may cost. The first three are checked before any decoder runs.

    The most that a grey film takes on its way from an object to a model's input and a preview was
    measured as 8.6 bytes for each pixel: JPEG 2000 of 16 bits, whose decoder holds the codestream
    twice and four bytes a pixel. The object lies in memory of its own that the decode process maps.
    """

    max_object_bytes: int = Field(default=256 * 2**20, gt=0)
    """Largest object, in bytes as stored."""
    max_pixels: int = Field(default=64_000_000, gt=0)
    """Largest film, Rows × Columns. Each pixel takes 10 bytes of max_decode_bytes."""
    max_inflated_bytes: int = Field(default=512 * 2**20, gt=0)
    """Largest data set after inflating a deflated transfer syntax, in bytes."""
    max_decode_bytes: int = Field(default=768 * 2**20, ge=128 * 2**20)
    """Memory of a decode process beside the object, in bytes (Linux): at least 128 MiB and 10 bytes
    for each of max_pixels."""
    max_decode_s: float = Field(default=10.0, gt=0)
    """Time for one object, seconds; then the decode process is killed and replaced."""

    @property
    def decode_bytes(self) -> int:
        """What a decode process needs for the largest film beside the object."""
        return _PROCESS_BYTES + _BYTES_A_PIXEL * self.max_pixels


class PreparedSettings(_Section):
    """The prepared-image cache (docs/operate/patient-data.md)."""

    mode: Literal["off", "read", "on"] = "off"
    """Prepared-image cache: off; `read` uses entries but writes none; `on` does both."""
    secret: SecretStr | None = None
    """Secret that encrypts the entries. `hilum cache secret` makes one."""
    bucket: str | None = None
    """Bucket of the entries. Not set: the bucket of each film."""
    prefix: str = ".hilum/prepared"
    """Prefix of the entries' keys. It must begin with a hidden folder, which listings skip."""

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

    results: bool = False
    """The gateway replaces UIDs by pseudonyms and masks text in overlays."""
    secret: SecretStr | None = None
    """Secret key from which pseudonyms are derived (at least 32 characters)."""
    regions: tuple[tuple[float, float, float, float], ...] = ()
    """Regions that are always covered in masked overlays: x0, y0, x1, y1 as shares of the film."""

    @model_validator(mode="after")
    def _within(self) -> DeidentifySettings:
        for x0, y0, x1, y1 in self.regions:
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError("each region must satisfy 0 <= x0 < x1 <= 1, y0 < y1 likewise")
        return self


class IdentitySettings(_Section):
    """Whether SQL knows who the films are of."""

    store: bool = False
    """Store Accession Number, Patient ID and Patient's Name, encrypted, in SQL."""
    secret: SecretStr | None = None
    """Secret that encrypts them: at least 32 characters, the same for all processes."""


class WorkerSettings(_Section):
    """How a worker takes and runs jobs."""

    processes: int = Field(default=1, ge=1)
    """Processes of a worker. Each has its own engine."""
    decode_threads: int = Field(default=2, ge=1)
    """Threads of a process that fetch and decode. Each has its own decode process."""
    engine_threads: int = Field(default=0, ge=0)
    """Threads of the engine on the CPU. 0: one for each core."""
    batch_size: int = Field(default=8, ge=1)
    """Largest number of images in one call of the engine."""
    batch_wait_s: float = Field(default=0.2, ge=0)
    """Longest time that an image waits for others to fill its batch, seconds. Images of `stat`
    jobs do not wait."""
    engine_call_s: float = Field(default=0.15, gt=0)
    """Longest engine call that an urgent image may have to wait for, seconds. Batches without
    `stat` images have no more images than the engine scores in this time."""
    stat_threads: int = Field(default=1, ge=0)
    """Threads with decode processes that only load images of `stat` jobs."""
    jobs_in_hand: int = Field(default=32, ge=1)
    """Most jobs of one priority that a process has in hand at a time."""
    images_in_flight: int = Field(default=24, ge=1)
    """Most images of one priority that a process is loading or has ready for the engine; at least
    two batches."""
    max_running_jobs: int | None = Field(default=None, ge=1)
    """Most jobs of one tenant in hand of all workers. Not set: no limit. The table `tenants` sets
    it for single tenants."""
    object_wait_s: float = Field(default=0.0, ge=0)
    """An object that does not exist is looked for again until its study is so old, seconds. A
    request may set a time of its own."""
    poll_s: float = Field(default=0.05, gt=0)
    """Time between two looks of a busy process for more urgent jobs, seconds."""
    no_progress_s: float = Field(default=120.0, gt=0)
    """A process ends itself, and is replaced, when a batch or an image takes longer than this,
    seconds."""
    lease_s: float = Field(default=60.0, gt=0)
    """Lease of a job, seconds. Another worker may claim a job whose lease is not renewed."""
    max_job_attempts: int = Field(default=8, ge=1)
    """A job is quarantined after so many workers in a row died over it."""
    max_image_attempts: int = Field(default=3, ge=1)
    """An image fails after so many workers died over it; the others go on."""
    give_up_after_s: float = Field(default=86_400, gt=0)
    """A job fails when transient errors have lasted so long, seconds, counted from the first
    failure in a row."""
    retry_base_s: float = Field(default=5.0, gt=0)
    """Wait after the first transient error, seconds. It doubles each time."""
    retry_max_s: float = Field(default=300.0, gt=0)
    """Longest wait between attempts, seconds."""
    sweep_interval_s: float = Field(default=5.0, gt=0)
    """Time between two runs of the sweeper, seconds."""
    republish_after_s: float = Field(default=30.0, gt=0)
    """Age from which a published job may count as lost by the broker, seconds."""
    task_time_limit_s: int = Field(default=900, gt=0)
    """A process that runs one task for longer is killed, seconds. It gives its jobs back after half
    this time."""
    visibility_timeout_s: int = Field(default=1800, gt=0)
    """The broker delivers an unacknowledged task again after this time, seconds."""
    metrics_address: str | None = None
    """host:port where the worker answers Prometheus at /metrics. Not set: no metrics."""
    cam_policy: CamPolicy = "all"
    """Which Grad-CAM maps are kept: all, findings or none. Some jurisdictions allow none."""

    @model_validator(mode="after")
    def _time_limits(self) -> WorkerSettings:
        if self.task_time_limit_s >= self.visibility_timeout_s:
            raise ValueError("task_time_limit_s must be below visibility_timeout_s")
        return self


class TensorRTSettings(_Section):
    """The TensorRT engine."""

    library: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt"
    """tensorrt, or tensorrt_rtx for RTX cards."""
    engine_dir: Path | None = None
    """Folder of the plans. Not set: `engines` below the cache directory."""
    on_missing: Literal["error", "build"] = "error"
    """If no plan fits this GPU: `error`, or `build` one (minutes)."""
    streams: int = Field(default=1, ge=1, le=16)
    """Has no effect. The next release will not have it."""
    cuda_graphs: bool = True
    """Launch each batch as one recorded CUDA graph."""


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

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on. 0: any free port."""
    metrics_address: str | None = None
    """host:port where the gateway answers Prometheus at /metrics, without a key. Not set: no
    metrics."""
    max_images_per_study: int = Field(default=2000, ge=1)
    """Most images in one study."""
    max_body_bytes: int = Field(default=2 * 2**20, gt=0)
    """Largest body of a request, in bytes."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """A request whose body takes longer to arrive is refused, seconds."""
    header_timeout_s: float = Field(default=10.0, gt=0)
    """A connection that sends no whole request head for so long is closed, seconds."""
    max_connections: int = Field(default=1000, ge=1)
    """Most open connections. Any further one is closed at once."""
    allowed_uri_prefixes: tuple[str, ...] = ("s3://",)
    """Buckets and folders. Only objects below one of them may be scored."""
    tenant_uri_prefixes: dict[str, tuple[str, ...]] = {}
    """Buckets and folders of each tenant, as JSON. No other tenant may name objects below them, and
    the tenant may name no others."""
    render_threads: int = Field(default=2, ge=1)
    """Overlays rendered at the same time."""
    render_queue: int = Field(default=16, ge=0)
    """Most overlays that wait. Any further one is answered 503."""
    overlay_max_side: int = Field(default=1024, ge=64)
    """Longest side of a PNG overlay, pixels."""


class Settings(BaseSettings):
    """All settings of all processes. Build with :func:`load`."""

    model_config = SettingsConfigDict(
        env_prefix="HILUM_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    database_url: str = "sqlite:///var/hilum.db"
    """sqlite:///FILE or postgresql://…"""
    broker_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Address of Redis or Valkey."""
    model_uri: str = "models/demo"
    """The model package: a folder, an archive or s3://…"""
    model_digest: str | None = Field(default=None, pattern="^sha256:[0-9a-f]{64}$")
    """Digest that the package of model_uri must have. Not set: any."""
    engine: EngineChoice = "auto"
    """Engine that runs the graph: auto, tensorrt, onnxruntime-cuda or onnxruntime."""
    trusted_signers: Path | None = None
    """File of keys that may sign packages. If set, packages signed by others are refused."""
    cache_dir: Path = Path("var/cache")
    """Fetched packages and plans. Training keeps prepared films here, which are patient data."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level of hilum's own log lines. DEBUG also shows tracebacks on the command line."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Form of the log: `json` (one object a line) or `text`. `auto`: gateway and worker write JSON,
    commands write text."""
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


def unknown_variables() -> list[str]:
    """The environment's variables HILUM_* that no setting reads, such as misspelt ones."""
    known = {"HILUM_CONFIG_FILE"}
    for name, field in Settings.model_fields.items():
        known.add(f"HILUM_{name.upper()}")
        if isinstance(field.default, BaseModel):
            inner = type(field.default).model_fields
            known |= {f"HILUM_{name}__{each}".upper() for each in inner}
    return sorted(
        name
        for name in os.environ
        if name.upper().startswith("HILUM_") and name.upper() not in known
    )
