"""The pages: the site builds, every link and every file that a page names exists, one form."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Pages that are read in the repository and are no part of the site.
OUTSIDE = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "benchmarks/results").glob("*.md")),
]
# What a page may name that is there only after a command ran.
MADE = ("build/", "var/", "models/mine")


def _build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
    ]  # --quiet would hide what strict counts
    command += ["--config-file", str(config), "--site-dir", str(site)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = _build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "prepared-image cache" in (tmp_path / "site/search/search_index.json").read_text()
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(?:https?:)?//[^\s\">]+", text)
        loaded += re.findall(r"<link[^>]+rel=\"?stylesheet[^>]+href=\"?(?:https?:)?//[^\s>]+", text)
        assert loaded == [], page.name


@pytest.mark.parametrize("link", ["no-such-page.md", "quickstart.md#no-such-heading"])
def test_a_dead_link_or_anchor_fails(tmp_path: Path, link: str) -> None:
    shutil.copytree(DOCS / "start", tmp_path / "docs")
    (tmp_path / "docs/index.md").write_text(f"# Start\n\n[a link]({link})\n")
    for page in (tmp_path / "docs").glob("[!i]*.md"):
        page.write_text(f"# {page.stem}\n")
    text = (ROOT / "mkdocs.yml").read_text()
    (tmp_path / "mkdocs.yml").write_text(text[: text.index("nav:\n  - Start")])
    done = _build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert link.partition("#")[2] in done.stdout + done.stderr


@pytest.mark.parametrize("page", OUTSIDE, ids=_shown)
def test_links_outside_the_site_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        found = (page.parent / path) if path else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(), flags=re.MULTILINE)
            assert anchor in {_slug(heading) for heading in headings}, target


@pytest.mark.parametrize("page", [*PAGES, *OUTSIDE[:3]], ids=_shown)
def test_files_that_a_page_names_exist(page: Path) -> None:
    top = {path.name for path in ROOT.iterdir()}
    for name in re.findall(r"`([\w.-]+/[\w./-]+\w)`", page.read_text()):
        if name.split("/")[0] in top and not name.startswith(MADE):
            assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("0*.md")), ids=_shown)
def test_decisions_have_one_form_and_are_listed(page: Path) -> None:
    text = page.read_text()
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert headings == ["Context", "Decision", "Consequences", "What would change it"]
    assert text.startswith(f"# {page.name[:4]}: ")
    title = text.partition("\n")[0][8:]
    assert (
        f"| [{page.name[:4]}]({page.name}) | {title} |" in page.with_name("README.md").read_text()
    )
    assert len(text.split()) < 500, "a decision is at most a page"


@pytest.mark.parametrize("page", [*PAGES, *OUTSIDE[:4]], ids=_shown)
def test_what_reads_or_renders_badly(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"`[^`\n]*\\\|[^`\n]*`", text) == [], "the site shows the backslash"
    if page.name != "glossary.md":  # which shows what not to write
        assert not set("«»") & set(text)


def test_the_citations_of_decisions_in_code_lead_somewhere() -> None:
    numbers = {page.name[:4] for page in (DOCS / "decisions").glob("0*.md")}
    for folder in ("hilum", "trainer", "export", "worker", "api_gateway", "configs", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".toml"}:
                cited = re.findall(r"decision (\d{4})", path.read_text())
                assert set(cited) <= numbers, path


def _slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")
