"""The in-page figures: from a slider event to the painted frame, and what a page with figures weighs.

python benchmarks/figures.py [--events 100] [--figure PruningExplorer]

Each slider of each figure (tests/gallery.py) gets real key presses, through the browser's own input, one after the
other with pauses of irregular length, so that they fall anywhere between two frames.

Measured, in ms of the page's clock: from the key event's time stamp (when the browser received it, before any script
ran) to the first task after the frame that shows the new value, that is after input handlers, the figure's drawing,
style, layout and paint. That includes the wait for the next frame, up to 16.7 ms at 60 frames a second however little
there is to do, and every moment in which another program has the core. Beside it, without both: the processor time that
the page's main thread spends on one event (and on what a figure that runs by itself does meanwhile). Not measured:
raster and compositing in the browser's other threads, and the screen.

The weights are those of the built book (make book), uncompressed: what a page loads, told apart into what is its own
(text, pictures, the figures' data and code, their loader) and what every page shares (theme, mathematics).
"""

import argparse
import random
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import chromium, serving, still_page, visit  # noqa: E402
from gallery import GALLERY  # noqa: E402

HTML = ROOT / "_build" / "html"
WARM = 10
"""Events before the first that counts."""

# A listener that comes before the figure's own asks for the frame first, and its task runs once that frame is painted.
CLOCK = """() => {
    let pressed = 0;
    window.times = [];
    addEventListener("keydown", (event) => { pressed = event.timeStamp; }, true);
    addEventListener("input", () => {
        const since = pressed, {port1, port2} = new MessageChannel();
        port1.onmessage = () => times.push(performance.now() - since);
        requestAnimationFrame(() => port2.postMessage(null));
    }, true);
}"""


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(100 * share) - 1]


def spent(devtools) -> float:
    """Processor time of the page's main thread so far, in ms."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return 1e3 * next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def speed(browser, names: list[str], events: int) -> None:
    print("| figure | slider | event to frame: median | p95 | processor time: median | p95 |")
    print("|---|---|---|---|---|---|")
    rng = random.Random(0)
    for name in names:
        shown = GALLERY[name]
        with tempfile.TemporaryDirectory() as folder:
            figure = shown.make()
            page, _, _ = visit(browser, still_page(figure, folder=Path(folder)))
        page.evaluate(CLOCK)
        devtools = page.context.new_cdp_session(page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        for key, control in figure.controls.items():
            slider = page.locator(f'.sbn input[type=range][name="{key}"]')
            if not slider.count():
                continue
            slider.focus()
            page.evaluate("times.length = 0")
            press, work = "ArrowRight", []
            for _ in range(WARM + events):
                # to and fro over the whole range
                place = slider.evaluate("(slider) => [slider.min, slider.max].indexOf(slider.value)")
                press = {0: "ArrowRight", 1: "ArrowLeft"}.get(place, press)
                before = spent(devtools)
                page.keyboard.press(press)
                page.wait_for_timeout(rng.uniform(20, 60))
                work.append(spent(devtools) - before)
            columns = [column[WARM:] for column in (page.evaluate("times"), work)]
            cells = [f"{percentile(column, share):.1f} ms" for column in columns for share in (0.5, 0.95)]
            print(f"| {name} | {control['label']} | {' | '.join(cells)} |", flush=True)
        page.context.close()


def weight(browser) -> None:
    pages = [p for f in ("book", "notebooks") for p in sorted((HTML / f).glob("*.html"))]
    pages = [page for page in pages if "jupyter.widget-view+json" in page.read_text(encoding="utf-8")]
    if not pages:
        print("No built page holds a figure: run `make book` for the weights.")
        return
    print("| page | figures | their data and code | with its text, pictures and the loader | shared by all pages |")
    print("|---|---|---|---|---|")
    with serving(HTML) as address:
        for path in pages:
            page, _, _ = visit(browser, f"{address}/{path.relative_to(HTML).as_posix()}")
            page.locator(".sbn data").first.wait_for(state="attached")
            loaded = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.name)")
            files = {HTML / url.removeprefix(address + "/").split("?")[0] for url in loaded if url.startswith(address)}
            is_own = {file: "_static" not in file.parts or file.name == "figures.js" for file in files}
            data = page.evaluate(
                "[...document.querySelectorAll('script[type^=\"application/vnd.jupyter.widget\"]')]"
                ".reduce((sum, tag) => sum + new Blob([tag.textContent]).size, 0)"
            )
            own = path.stat().st_size + sum(file.stat().st_size for file, own in is_own.items() if own)
            shared = sum(file.stat().st_size for file, own in is_own.items() if not own)
            count = page.locator(".sbn:not(.sbn-predict)").count()
            sizes = " | ".join(f"{size / 1e6:.2f} MB" for size in (data, own, shared))
            print(f"| {path.stem} | {count} | {sizes} |")
            page.context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--figure", nargs="+", default=[*GALLERY], choices=[*GALLERY], help="measure these alone")
    arguments = parser.parse_args()
    with chromium() as browser:
        speed(browser, arguments.figure, arguments.events)
        print()
        weight(browser)


if __name__ == "__main__":
    main()
