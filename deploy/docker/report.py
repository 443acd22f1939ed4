"""Within the build: the SBOM and the licence report of an image, its demonstration package, and
nothing that only developers use.

``python report.py HOME SBOM_VENV`` writes sbom.cdx.json and LICENCES.txt into HOME, whose venv has
the packages, lays models/demo there, and removes pip, tests, stubs, ONNX Runtime's tools for makers
of graphs, and what botocore knows of services other than S3 and those that give credentials.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

_SERVICES = {"s3", "sts", "sso", "sso-oidc", "signin"}
_OFFLINE = ("transformers", "quantization", "tools")  # of ONNX Runtime, for who makes graphs


def main() -> None:
    home, tools = Path(sys.argv[1]), Path(sys.argv[2])
    (demo,) = home.glob("venv/lib/python3*/site-packages/hilum_demo/demo")
    (home / "models").mkdir()
    (home / "models/demo").symlink_to(demo)
    _trim(home / "venv", demo.parents[1])
    sbom = home / "sbom.cdx.json"
    command = [tools / "bin/cyclonedx-py", "environment", home / "venv", "-o", sbom]
    subprocess.run([*command, "--output-reproducible"], check=True)
    found = json.loads(sbom.read_text(encoding="utf-8"))["components"]
    stated = {
        each.metadata["Name"]: each.metadata.get("License") or "not declared"
        for each in distributions(path=[str(demo.parents[1])])
    }
    lines = [
        f"{part['name']} {part['version']}: {_licence(part) or stated[part['name']]}"
        for part in found
    ]
    (home / "LICENCES.txt").write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


def _trim(venv: Path, packages: Path) -> None:
    """Remove what only developers use."""
    for pattern in ("*/**/tests", "*/**/test", *(f"onnxruntime/{name}" for name in _OFFLINE)):
        for folder in packages.glob(pattern):
            if folder.is_dir():
                shutil.rmtree(folder)
    for folder in (packages / "botocore/data").iterdir():
        if folder.is_dir() and folder.name not in _SERVICES:
            shutil.rmtree(folder)
    for stub in packages.rglob("*.pyi"):
        stub.unlink()
    remove = [venv / "bin/pip", "--quiet", "uninstall", "--yes", "setuptools", "pip"]
    subprocess.run(remove, check=True)


def _licence(part: dict[str, object]) -> str:
    named = []
    for entry in part.get("licenses", []):  # type: ignore[attr-defined]
        licence = entry.get("license", {})
        named.append(entry.get("expression") or licence.get("id") or licence.get("name", ""))
    return " | ".join(sorted({name for name in named if name}))


if __name__ == "__main__":
    main()
