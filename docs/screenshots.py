"""Take the pictures of `docs/page.md` from a running service with two devices and some stored subnets.

python docs/screenshots.py http://127.0.0.1:8000 docs
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "service"))
from browser import launched

_COLOURS = 128  # of the palette: a page has few, and a picture is then a third as large


def main(url: str, folder: Path) -> None:
    """Write the pictures into `folder`."""
    with launched() as browser:
        for name, (path, scheme, height, prepare) in _pictures(url).items():
            view = {"width": 1240, "height": height}
            context = browser.new_context(base_url=url, viewport=view, color_scheme=scheme, device_scale_factor=1.5)
            page = context.new_page()
            page.goto(path)
            prepare(page)
            page.wait_for_timeout(300)
            _save(page.screenshot(), folder / f"{name}.png")
            context.close()


def _pictures(url: str) -> dict[str, tuple[str, str, int, Callable[[Any], None]]]:
    """Name -> path, colour scheme, height in pixels, what to do first."""
    devices = [device["name"] for device in httpx.get(f"{url}/api/v1/devices").json()["items"]]
    newest = [httpx.get(f"{url}/api/v1/devices/{name}/latency-tables").json()["items"] for name in devices]
    first, second = (tables[0]["id"] for tables in newest if tables)
    return {
        "page": ("/", "light", 905, _pick),
        "page-refused-dark": ("/", "dark", 1120, _refuse),
        "page-subnets": ("/subnets?sort=-accuracy", "light", 880, lambda page: None),
        "page-tables-dark": (f"/tables/compare?a={second}&b={first}", "dark", 800, lambda page: None),
    }


def _pick(page: Any) -> None:
    page.locator("#picture .line").wait_for()
    page.locator("#picture .point.stored").nth(4).press("Space")


def _refuse(page: Any) -> None:
    page.locator("#picture .point").first.wait_for()
    page.locator("#limits input").first.fill("0.05")
    page.locator("#limits input").nth(1).fill("2")
    page.get_by_role("button", name="Find subnet").click()
    page.locator("#outcome .notice").wait_for()
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


def _save(png: bytes, path: Path) -> None:
    """With a palette, which needs a third of the bytes."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
