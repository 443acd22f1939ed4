"""``hilum doctor``: check this machine, and say which engine it would use and why."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from typing import Any

import click

from hilum import __version__, settings
from hilum.errors import EngineUnavailableError, HilumError
from hilum.machine import usable_cores
from hilum.settings import Settings

EXIT_NO_ENGINE = 2


@click.command()
@click.option("--model", metavar="PATH|s3://…", help="Model package.  [default: HILUM_MODEL_URI]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(context: click.Context, model: str | None, as_json: bool) -> None:
    """Check GPU, libraries, model and engine of this machine, and say what is missing.

    Exits with 0 if the machine can score with the model, and with 2 and the reason if it cannot.
    """
    report = examine(settings.load(), model)
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_text(report)))
    context.exit(0 if "error" not in report["engine"] else EXIT_NO_ENGINE)


def examine(config: Settings, model: str | None = None) -> dict[str, Any]:
    """The report of all checks. A failed check is ``{"error": …}``."""
    return {
        "hilum": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {usable_cores()} usable cores",
        "gpu": _part(_gpu),
        "tensorrt": _part(lambda: _tensorrt(config)),
        "onnxruntime": _part(_onnxruntime),
        **_engine(config, model),
    }


def _part(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return look()
    except HilumError as error:
        return {"error": error.body()}


def _gpu() -> dict[str, Any]:
    from hilum.engines import cuda  # noqa: PLC0415

    device = cuda.require_device()
    return {
        "name": device.name,
        "compute_capability": ".".join(map(str, device.compute_capability)),
        "memory_bytes": device.memory_bytes,
        "driver_cuda": device.driver_cuda,
    }


def _tensorrt(config: Settings) -> dict[str, Any]:
    from hilum.engines.tensorrt import library  # noqa: PLC0415
    from hilum.engines.tensorrt.store import PlanStore  # noqa: PLC0415

    library.use(config.tensorrt.library)
    plans = len(PlanStore(config.engine_dir).records())
    return {"library": library.label(), "plans": plans, "engine_dir": str(config.engine_dir)}


def _onnxruntime() -> dict[str, Any]:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError:
        raise EngineUnavailableError(
            "onnxruntime is not installed.", next_step="Install `hilum[serve]`."
        ) from None
    return {
        "version": onnxruntime.__version__,
        "cuda": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    }


def _engine(config: Settings, model: str | None) -> dict[str, Any]:
    """Load the model, and open the engine that would run it, with the golden check."""
    from hilum.engines.loading import open_engine  # noqa: PLC0415
    from hilum.session import open_package  # noqa: PLC0415

    found: dict[str, Any] = {"model": {}, "engine": {}}
    try:
        package = open_package(config, model)
        manifest = package.manifest
        found["model"] = {
            "name": manifest.name,
            "version": manifest.version,
            "digest": package.digest,
        }
        chosen = open_engine(package, config)
    except HilumError as error:
        found["engine"] = {"configured": config.engine, "error": error.body()}
        return found
    found["engine"] = {
        "configured": config.engine,
        "name": chosen.name,
        "reason": chosen.reason,
        "because": chosen.because,
        "passed_over": [
            {"candidate": p.candidate, "error": p.error.body()} for p in chosen.passed_over
        ],
    }
    return found


def _text(report: dict[str, Any]) -> list[str]:
    lines = []
    for part, facts in report.items():
        if not isinstance(facts, dict):
            lines.append(f"{part + ':':<13}{facts}")
        elif "error" in facts:
            error = facts["error"]
            lines.append(f"{part + ':':<13}{error['detail']} [{error['code']}]")
            lines.append(f"{'':<13}{error['next_step']}")
        elif part == "engine":
            lines.append(f"{'engine:':<13}{facts['name']} (HILUM_ENGINE={facts['configured']})")
            lines += [f"{'':<13}{line}" for line in facts["because"].split("; ")]
        else:
            shown = ", ".join(f"{name} {value}" for name, value in facts.items())
            lines.append(f"{part + ':':<13}{shown or 'none'}")
    return lines
