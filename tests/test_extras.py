"""The extras that messages and documents tell people to install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("supernet", "latency_tables", "search", "pruning", "service", "tests")


def test_every_extra_that_is_named_exists() -> None:
    files = [ROOT / "README.md", *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))]
    named = {
        extra
        for file in files
        for extras in re.findall(r"onceforall\[([a-z,]+)\]", file.read_text())
        for extra in extras.split(",")
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"onnx", "pictures", "dev"} <= named <= set(project["optional-dependencies"])
