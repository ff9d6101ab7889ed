"""The pictures of pages in the documentation: the comparison's page, and the playground at two widths.

    python tools/docs_pictures.py [--out docs/images]

Chromium (tools/install_chromium.sh) takes them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from noise_scheduler_sampling_system.comparison import compare
from noise_scheduler_sampling_system.playground import Choice, build

ROOT = Path(__file__).parents[1]
SAMPLERS = ("ddim", "heun", "dpmpp_2m", "DPM++ 2M Karras", "unipc", "ancestral")
BUDGETS = (5, 10, 20)
#: By the name of the picture: width and height in CSS pixels, and the pixels of one.
PLAYGROUND = {"playground": (1280, 1760, 1), "playground-phone": (390, 1710, 1.5)}
#: Every figure of the comparison is drawn.
DRAWN = "() => [...document.querySelectorAll('.plot')].every(each => each.querySelector('svg'))"
#: Both settings have been run, and no point was added to their curves since the last look.
SETTLED = """() => {
  const points = document.querySelectorAll('.point').length, before = window.pointsBefore;
  window.pointsBefore = points;
  return points > 0 && points === before
    && [...document.querySelectorAll('.score')].every(each => /error [0-9.]/.test(each.textContent));
}"""
#: Milliseconds between two looks at a page.
LOOK = 1000


def shoot(browser: Browser, page: Path, out: Path, size: tuple[int, int, float], ready: str) -> None:
    """The upper part of a page as a PNG.

    Args:
        browser: takes it.
        page: the file.
        out: the picture.
        size: width and height in CSS pixels, and the pixels of one.
        ready: a function in JavaScript that says whether the page is drawn.
    """
    width, height, scale = size
    opened = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
    opened.goto(page.as_uri())
    opened.wait_for_function(ready, polling=LOOK)
    opened.screenshot(path=out)
    opened.close()
    print(f"wrote {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images")
    out = parser.parse_args().out
    chromium = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        compare(SAMPLERS, nfe=BUDGETS, shape=(32, 1, 8, 8)).save(folder / "comparison.html")
        build(folder / "page", Choice(paths=("linear",), spacings=("kl_optimal",), seeds=1))
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        shoot(browser, folder / "comparison.html", out / "comparison.png", (1100, 1560, 1), DRAWN)
        for picture, size in PLAYGROUND.items():
            shoot(browser, folder / "page" / "index.html", out / f"{picture}.png", size, SETTLED)
        browser.close()


if __name__ == "__main__":
    main()
