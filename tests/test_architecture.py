"""What docs/architecture.md says of the house holds."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "cache": {"torch", "open_clip", "torchvision", "PIL", "mma.adapters", "mma.pipeline"},
    "adapters": {"zarr", "open_clip", "torchvision", "PIL", "pathlib", "mma.cache", "mma.pipeline"},
}


def imports(file: Path) -> set[str]:
    """Every module named in an import statement of a file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        wrong = {m for m in imports(file) if any(within(m, other) for other in FORBIDDEN[package])}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("package", ["cache", "adapters", "pipeline"])
def test_no_pickle_is_read_or_written(package: str) -> None:
    for file in sorted((ROOT / package).rglob("*.py")):
        assert not {m for m in imports(file) if m in ("pickle", "dill", "joblib", "cloudpickle", "shelve")}, file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if name == "torch.load":
                    assert keywords.get("weights_only") == "True", f"{file}:{node.lineno}"
                assert name != "torch.save", f"{file}:{node.lineno}"
                assert keywords.get("allow_pickle", "False") == "False", f"{file}:{node.lineno}"


def test_every_subpackage_is_installed() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent for top in ("cache", "adapters", "pipeline") for file in (ROOT / top).rglob("__init__.py")}
    face = ROOT / "pipeline" / "facade"
    named = {"mma" if folder == face else f"mma.{'.'.join(folder.relative_to(ROOT).parts)}" for folder in folders}
    assert named == set(listed)


ROOMS = {  # of pipeline/: what each may import of the others
    "datasets": set(),
    "embedding": {"datasets"},
    "fitting": set(),
    "reports": {"fitting"},
    "caches": {"embedding", "datasets"},
    "using": {"embedding", "datasets", "fitting", "reports"},
    "explaining": {"embedding", "datasets", "fitting", "reports"},
    "suites": {"embedding", "datasets", "fitting", "reports"},
    "cli": {"datasets", "embedding", "fitting", "reports", "caches", "using", "explaining", "suites"},
    "facade": {"embedding", "fitting", "using"},
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    files = sorted((ROOT / "pipeline" / room).rglob("*.py"))
    assert files
    for file in files:
        seen = {m.split(".")[2] for m in imports(file) if m.startswith("mma.pipeline.") and m.split(".")[2] in ROOMS}
        assert seen - {room} <= ROOMS[room], f"{file.relative_to(ROOT)} imports {seen - {room} - ROOMS[room]}"


def test_only_the_command_line_knows_typer() -> None:
    for file in sorted((ROOT / "pipeline").rglob("*.py")):
        if file.relative_to(ROOT / "pipeline").parts[0] != "cli":
            assert not any(within(m, "typer") or within(m, "mma.pipeline.cli") for m in imports(file)), file


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_journeys_of_the_page_lead_through_functions_that_are_there() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    journeys = page.partition("## Three journeys")[2].partition("\n## ")[0]
    stops = re.findall(r"^    (\S+)\s+(\S+\.py)\s", journeys, flags=re.MULTILINE)
    assert len(stops) > 20
    for name, file in stops:
        assert defines(ROOT / file, name), f"{name} is not in {file}"


MAPS = {  # a section of the page: where its files lie, if not under their own path
    "Stage one": "pipeline/embedding",
    "Stage two": "pipeline/fitting",
    "Using a model": "pipeline/using",
    "A paper's tables": "pipeline/suites",
    "From runs to findings": "pipeline/reports",
    "Inside a fit": "pipeline/explaining",
}


@pytest.mark.parametrize(("section", "room"), MAPS.items())
def test_the_maps_of_the_page_name_files_that_have_what_they_say(section: str, room: str) -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    text = page.partition(f"## {section}")[2].partition("\n## ")[0]
    stops = re.findall(r"^    +(\w[\w.]*(?:, \w+)*)(?: \.\.\.)?\s+([\w/]+\.py)\s", text, flags=re.MULTILINE)
    assert len(stops) >= 4
    for names, file in stops:
        found = next(path for path in (ROOT / room / file, ROOT / "pipeline" / file) if path.exists())
        for name in names.split(", "):
            assert defines(found, name), f"{name} is not in {file}"


def defines(file: Path, name: str) -> bool:
    """Whether a file has a function, a class, or a method `Class.name` of it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    *owner, last = name.split(".")
    inside = next((n for n in tree.body if isinstance(n, ast.ClassDef) and [n.name] == owner), tree)
    return last in {n.name for n in inside.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
