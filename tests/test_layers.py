"""Imports run one way, and serving needs no PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: what each package may import of the others; `offline_train` of `streams` only the shared core
ALLOWED = {
    "model_runtime": set(),
    "streams": {"model_runtime"},
    "offline_train": {
        "model_runtime",
        "streams.events",
        "streams.history",
        "streams.topics",
        "streams.state_record",
        "streams.archive_files",
    },
    "infra": {"model_runtime", "streams", "offline_train"},
}


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for name in sorted(imports_of(file))
        if name.split(".")[0] in ALLOWED.keys() - {package}
        and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED[package])
    ]
    assert not wrong, "\n".join(wrong)


def test_serving_the_demo_and_the_data_tools_import_no_training_library() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for package in ("streams", "model_runtime")
        for file in sorted((ROOT / package).rglob("*.py"))
        if file.name != "__init__.py"
    ]
    modules += ["infra.cli.worker", "infra.cli.demo", "infra.demo.run", "infra.cli.convert", "infra.cli.simulate"]
    modules += ["offline_train.sources.simulator", "offline_train.sources.hetrec", "infra.local.stack"]
    code = (
        # Numba, where it is installed, takes SciPy if it is there, and does without.
        "import importlib, sys\nsys.modules['scipy'] = None\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "there = {name for name, module in sys.modules.items() if module is not None}\n"
        "print(*{'torch', 'sklearn', 'scipy', 'polars', 'matplotlib', 'onnx', 'pytest'} & there)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], f"serving imports {done.stdout}"
