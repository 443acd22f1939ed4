"""``hilum doctor``: check this machine and its services, and say which engine it would use."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from typing import Any

import click

from hilum import __version__, settings
from hilum.commands import doctor_services
from hilum.errors import EngineUnavailableError, HilumError
from hilum.machine import usable_cores
from hilum.settings import Settings

EXIT_UNFIT = 2


@click.command()
@click.option("--model", metavar="PATH|s3://…", help="Model package.  [default: HILUM_MODEL_URI]")
@click.option("--film", metavar="s3://…", help="A film that must be readable.")
@click.option(
    "--skip",
    multiple=True,
    type=click.Choice([*doctor_services.CHECKS, "engine"]),
    help="Leave a check out; may be repeated. `engine` loads the package, but opens no engine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def doctor(
    context: click.Context,
    model: str | None,
    film: str | None,
    skip: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check settings, services and engine of this machine, and say what is missing and the fix.

    Database, broker and store are checked if their settings are given. Exits with 0 if everything
    that was checked is fit for use, and with 2 if something is not.
    """
    config = settings.load()
    report = examine(config, model, engine="engine" not in skip)
    services = doctor_services.run(config, film, frozenset(skip))
    report |= services
    click.echo(json.dumps(report, indent=2) if as_json else "\n".join(_text(report)))
    needed = [report["engine"], *services.values()]
    context.exit(EXIT_UNFIT if any("error" in part for part in needed) else 0)


def examine(config: Settings, model: str | None = None, *, engine: bool = True) -> dict[str, Any]:
    """The report of this machine. A failed check is ``{"error": …}``; without ``engine`` the
    package is checked, but no engine is opened."""
    return {
        "hilum": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {usable_cores()} usable cores",
        "gpu": _part(_gpu),
        "tensorrt": _part(lambda: _tensorrt(config)),
        "onnxruntime": _part(_onnxruntime),
        **_engine(config, model, opened=engine),
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


def _engine(config: Settings, model: str | None, *, opened: bool) -> dict[str, Any]:
    """Load the model, check its signature, and open the engine that would run it, with the golden
    check."""
    from hilum.engines.loading import open_engine  # noqa: PLC0415
    from hilum.packages.load import check_signature  # noqa: PLC0415
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
        signer = check_signature(package, config)
        found["model"]["signature"] = "trusted" if signer else "not required"
        if not opened:
            return found
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
        elif part == "engine" and facts:
            lines.append(f"{'engine:':<13}{facts['name']} (HILUM_ENGINE={facts['configured']})")
            lines += [f"{'':<13}{line}" for line in facts["because"].split("; ")]
        else:
            shown = ", ".join(
                f"{name} {value}" for name, value in facts.items() if name != "warning"
            )
            lines.append(f"{part + ':':<13}{shown or 'none'}")
            if "warning" in facts:
                lines.append(f"{'':<13}Warning: {facts['warning']}")
    return lines
