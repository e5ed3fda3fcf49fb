"""The address of the repository: once in _config.yml, or owner/name in the environment variable BRIDGEOUT_REPOSITORY.

As a Sphinx extension it makes the pages of a fork lead to the fork, whatever address the sources name. As a program,
``BRIDGEOUT_REPOSITORY=owner/name python book/address.py``, it writes that address into the sources, for good.
"""

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES = ("_config.yml", "*.md", "CITATION.cff", "book/*.md", "notebooks/*.ipynb", ".github/ISSUE_TEMPLATE/*.yml")


def configured() -> str:
    """The address that the sources name, as owner/name."""
    found = re.findall(r"^  url: https://github\.com/(\S+)$", (ROOT / "_config.yml").read_text(encoding="utf-8"), re.M)
    if len(found) != 1:
        raise ValueError("_config.yml must name the repository once, as `url: https://github.com/owner/name`")
    return str(found[0])


def repository() -> str:
    """The address that is wanted, as owner/name."""
    name = os.environ.get("BRIDGEOUT_REPOSITORY") or configured()
    if not re.fullmatch(r"[\w-]+/[\w.-]+", name):
        raise ValueError(f"BRIDGEOUT_REPOSITORY must be owner/name, as in github.com/owner/name; got {name!r}")
    return name


def renamed(text: str, name: str) -> str:
    """The text with another address, and with the folder that cloning makes."""
    old = configured()
    for pattern, new in (
        (rf"(?<=github\.com/){re.escape(old)}(?![\w-])", name),
        (rf"(?<=github/){re.escape(old)}(?=/)", name),
        (rf"(?<=\bcd ){re.escape(old.partition('/')[2])}\b", name.partition("/")[2]),
    ):
        text = re.sub(pattern, new, text)
    return text


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls. The pages are read anew when the address changes."""
    app.add_config_value("repository", repository(), "env", [str])

    def theme(app: Any, config: Any) -> None:
        config.html_theme_options = {
            **config.html_theme_options,
            "repository_url": f"https://github.com/{config.repository}",
        }

    def read(app: Any, page: str, source: list[str]) -> None:
        source[0] = renamed(source[0], app.config.repository)

    app.connect("config-inited", theme)
    app.connect("source-read", read, priority=900)  # after what else makes the text of a page
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    address = repository()
    pages = {path: path.read_text(encoding="utf-8") for pattern in SOURCES for path in ROOT.glob(pattern)}
    changed = {path: new for path, text in pages.items() if (new := renamed(text, address)) != text}
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
