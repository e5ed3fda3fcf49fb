"""Take the pictures of the in-page figures anew, before and after a reader's moves: python book/screenshots.py

Writes book/static/screenshots/NAME-before.png and NAME-after.png, for every figure and its moves in tests/gallery.py:
the figure alone, light, 860 px wide, one device pixel a CSS pixel, 64 colours.
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium, still_page, visit  # noqa: E402
from gallery import GALLERY  # noqa: E402

FOLDER = ROOT / "book" / "static" / "screenshots"


def take(page, path: Path) -> None:
    # what the moves asked for is drawn in the next frame
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture = Image.open(io.BytesIO(page.locator(".sbn").screenshot())).convert("RGB")
    # this method keeps the few pixels of a marked point in their colour; kmeans keeps the pale greys grey
    few = picture.quantize(64, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {picture.width} x {picture.height}, {path.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        for name, shown in GALLERY.items():
            address = still_page(shown.make(), folder=Path(folder))
            # calm, so that no figure moves by itself and every run takes the same picture
            page, _, complaints = visit(
                browser, address, viewport={"width": 876, "height": 900}, color_scheme="light", reduced_motion="reduce"
            )
            page.add_style_tag(content=".sbn { border-radius: 0 }")  # a rounded corner is not drawn the same twice
            page.locator(".sbn data").first.wait_for(state="attached")
            shown.move(page, shown.opening)
            take(page, FOLDER / f"{name}-before.png")
            shown.move(page)
            take(page, FOLDER / f"{name}-after.png")
            assert not complaints, complaints
            page.context.close()


if __name__ == "__main__":
    main()
