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

CamPolicy = Literal["all", "findings", "none"]
EngineChoice = Literal["auto", "tensorrt", "onnxruntime-cuda", "onnxruntime"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class S3Settings(_Section):
    """Where objects are read. Without keys, boto3's own chain applies (IRSA, profile, …)."""

    endpoint_url: str | None = Field(default=None, description="None: AWS.")
    region: str = Field(default="us-east-1", description="used to sign requests")
    access_key_id: str | None = Field(
        default=None, description="None: boto3's own chain (IRSA, profile)"
    )
    secret_access_key: SecretStr | None = Field(
        default=None, description="goes with the access key id"
    )
    path_style: bool = Field(default=True, description="bucket in the path, not the host name")
    connect_timeout_s: float = Field(default=5.0, gt=0, description="to the store")
    read_timeout_s: float = Field(default=30.0, gt=0, description="without a byte from the store")
    max_attempts: int = Field(default=3, ge=1, description="per request, inside botocore")


class Limits(_Section):
    """What one object may cost. The first three are checked before any decoder runs."""

    max_object_bytes: int = Field(default=256 * 2**20, gt=0, description="of one object, as stored")
    max_pixels: int = Field(default=64_000_000, gt=0, description="Rows × Columns")
    max_inflated_bytes: int = Field(default=512 * 2**20, gt=0, description="deflated syntaxes")
    max_decode_bytes: int = Field(
        default=512 * 2**20, ge=128 * 2**20, description="memory of a decode process (Linux)"
    )
    max_decode_s: float = Field(
        default=10.0, gt=0, description="then the decode process is killed and replaced"
    )


class PreparedSettings(_Section):
    """The prepared-image cache (docs/prepared-cache.md)."""

    mode: Literal["off", "read", "on"] = Field(
        default="off", description="prepared-image cache; `read` uses entries and writes none"
    )
    secret: SecretStr | None = Field(
        default=None, description="encrypts the entries; `hilum cache secret` makes one"
    )
    bucket: str | None = Field(default=None, description="of the entries. None: each film's own")
    prefix: str = Field(
        default=".hilum/prepared",
        description="of the entries' keys; begins with a hidden folder, where no films are",
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
    """What may leave and how (docs/deidentification.md)."""

    results: bool = Field(
        default=False, description="the gateway gives pseudonyms for UIDs, and masks overlays"
    )
    secret: SecretStr | None = Field(default=None, description="of the pseudonyms")
    regions: tuple[tuple[float, float, float, float], ...] = Field(
        default=(),
        description="always covered in masked overlays: x0, y0, x1, y1 in shares of the film",
    )

    @model_validator(mode="after")
    def _within(self) -> DeidentifySettings:
        for x0, y0, x1, y1 in self.regions:
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError("each region must satisfy 0 <= x0 < x1 <= 1, y0 < y1 likewise")
        return self


class WorkerSettings(_Section):
    """How a worker takes and runs jobs."""

    processes: int = Field(default=1, ge=1, description="one engine each")
    decode_threads: int = Field(
        default=2, ge=1, description="fetch and decode, a decode process each"
    )
    engine_threads: int = Field(default=0, ge=0, description="0: as many as cores")
    batch_size: int = Field(default=8, ge=1, description="images an engine call, at most")
    lease_s: float = Field(
        default=60.0, gt=0, description="a job is another worker's after so long without a sign"
    )
    max_job_attempts: int = Field(
        default=8, ge=1, description="workers in a row that took a job and died, then quarantine"
    )
    max_image_attempts: int = Field(
        default=3, ge=1, description="workers that died over an image, then it alone is given up"
    )
    give_up_after_s: float = Field(
        default=86_400,
        gt=0,
        description="how long transient errors are retried, from the first of a row of failures",
    )
    retry_base_s: float = Field(
        default=5.0, gt=0, description="first wait after a transient error; doubles each time"
    )
    retry_max_s: float = Field(default=300.0, gt=0, description="longest wait between attempts")
    sweep_interval_s: float = Field(
        default=5.0, gt=0, description="between looks for due and lost jobs"
    )
    republish_after_s: float = Field(
        default=30.0, gt=0, description="age at which a published job may count as lost"
    )
    task_time_limit_s: int = Field(
        default=900, gt=0, description="a process is killed that takes longer over one job"
    )
    visibility_timeout_s: int = Field(
        default=1800, gt=0, description="the broker delivers an unacknowledged task again"
    )
    metrics_address: str | None = Field(
        default=None, description="host:port where Prometheus finds /metrics; None: nowhere"
    )
    cam_policy: CamPolicy = Field(
        default="all", description="which Grad-CAM maps are kept: some jurisdictions allow none"
    )

    @model_validator(mode="after")
    def _time_limits(self) -> WorkerSettings:
        if self.task_time_limit_s >= self.visibility_timeout_s:
            raise ValueError("task_time_limit_s must be below visibility_timeout_s")
        return self


class TensorRTSettings(_Section):
    """The TensorRT engine."""

    library: Literal["tensorrt", "tensorrt_rtx"] = Field(
        default="tensorrt", description="tensorrt, or tensorrt_rtx for RTX cards"
    )
    engine_dir: Path | None = Field(
        default=None, description="built plans; None: engines below the cache directory"
    )
    on_missing: Literal["error", "build"] = Field(
        default="error", description="no plan fits this GPU: refuse, or build it (minutes)"
    )
    streams: int = Field(
        default=1, ge=1, le=16, description="parts of a batch larger than the plan's, at once"
    )
    cuda_graphs: bool = Field(default=True, description="launch a batch as one recorded piece")


class GatewaySettings(_Section):
    """The HTTP side."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8080, ge=0, le=65535, description="0: any free port")
    max_images_per_study: int = Field(default=2000, ge=1, description="in one request")
    max_body_bytes: int = Field(default=2 * 2**20, gt=0, description="of one request")
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="a request body that takes longer to arrive is refused"
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="a connection without a whole request head is closed then"
    )
    max_connections: int = Field(
        default=1000, ge=1, description="open connections; any further one is closed at once"
    )
    allowed_uri_prefixes: tuple[str, ...] = Field(
        default=("s3://",),
        description="buckets and folders; only objects below one of these may be asked for",
    )
    tenant_uri_prefixes: dict[str, tuple[str, ...]] = Field(
        default={},
        description="as JSON, the buckets and folders of a tenant, which no other tenant may name, "
        "and which are the only ones for that tenant",
    )
    render_threads: int = Field(default=2, ge=1, description="concurrent overlay renderings")
    render_queue: int = Field(
        default=16, ge=0, description="overlays that may wait; any further one is answered 503"
    )
    overlay_max_side: int = Field(default=1024, ge=64, description="of a PNG overlay, pixels")


class Settings(BaseSettings):
    """All settings of all processes. Build with :func:`load`."""

    model_config = SettingsConfigDict(
        env_prefix="HILUM_", env_nested_delimiter="__", extra="ignore", frozen=True
    )

    database_url: str = Field(
        default="sqlite:///var/hilum.db", description="sqlite:///FILE or postgresql://…"
    )
    broker_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey"
    )
    model_uri: str = Field(
        default="models/demo", description="model package: folder, archive or s3://…"
    )
    engine: EngineChoice = Field(
        default="auto",
        description="what runs the graph: auto, tensorrt, onnxruntime-cuda or onnxruntime",
    )
    trusted_signers: Path | None = Field(
        default=None,
        description="who may sign packages; others are refused",
    )
    cache_dir: Path = Field(
        default=Path("var/cache"), description="fetched model packages; no patient data"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="DEBUG also shows tracebacks on the command line"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto",
        description="one JSON object a line, or text; auto: JSON of the services, text of commands",
    )
    s3: S3Settings = S3Settings()
    limits: Limits = Limits()
    prepared: PreparedSettings = PreparedSettings()
    deidentify: DeidentifySettings = DeidentifySettings()
    worker: WorkerSettings = WorkerSettings()
    tensorrt: TensorRTSettings = TensorRTSettings()
    gateway: GatewaySettings = GatewaySettings()

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
        problems = "; ".join(
            f"HILUM_{'__'.join(str(part) for part in item['loc']).upper()}: {item['msg']}"
            for item in error.errors(include_input=False)
        )
        raise ConfigurationError(problems) from None
