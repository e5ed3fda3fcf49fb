"""The house rules: floors, addresses, notebooks with outputs and alt text, vendored files, the ledger up to date."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "book"))
import address  # noqa: E402

CHAPTERS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_chapter_is_stored_executed_and_checkable(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for cell, behind in zip(cells, [*cells[1:], {"source": "", "metadata": {}}], strict=True):
        source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        assert cell["execution_count"], f"never executed, so nbval compares nothing: {source[:60]}"
        assert not any(o["output_type"] == "error" for o in cell["outputs"]), source[:60]
        pictures = [o for o in cell["outputs"] if "image/png" in o.get("data", {})]
        if pictures:
            alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(pictures) == 1 and len(alt) > 40, f"one figure with alt text a cell: {source[:60]}"
        if "nbval-ignore-output" in tags and "bl.notebook.setup" not in source and cell["outputs"] and not pictures:
            guard = "".join(behind["source"]) if "hide-cell" in behind["metadata"].get("tags", []) else ""
            assert "assert" in source + guard, f"its output is ignored and nothing is asserted: {source[:60]}"


@pytest.mark.parametrize("path", [p for p in CHAPTERS if p.stem[:2] not in ("15", "16")], ids=lambda p: p.stem)
def test_chapter_has_its_parts(path):  # all but the last, which sums up, and the appendix, which is looked up
    text = "\n".join(
        "".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "markdown"
    )
    for part in ("Objectives", "Prerequisites", "Open in Colab", "What to remember", "## Exercises", "## References"):
        assert part in text, part
    assert ("**Predict.**" in text or "bl.notebook.predict(" in path.read_text()) and "ledger" in text
    assert len(re.findall(r"^# ", text, re.M)) == 1
    assert text.count("{exercise}") == text.count("{solution}") >= 2
    assert not re.search(r"!\[[^\]]*\]\(http", text), "no picture from another host"


def test_every_address_is_that_of_the_configuration():
    owner = address.configured()
    for path in (path for pattern in address.SOURCES for path in ROOT.glob(pattern)):
        for found in re.findall(r"github(?:\.com)?/([\w-]+/[\w-]+)(?=[/\s\"\\)`&]|$)", path.read_text()):
            assert found == owner, f"{path.name}: {found}; `python book/address.py` writes it everywhere"
    for path in CHAPTERS:
        assert f"colab.research.google.com/github/{owner}/blob/main/notebooks/{path.name}" in path.read_text()


def test_a_fork_has_its_own_address(monkeypatch):
    owner = address.configured()
    monkeypatch.setenv("BRIDGEOUT_REPOSITORY", "you/fork.two")
    assert address.repository() == "you/fork.two"
    for path in (path for pattern in address.SOURCES for path in ROOT.glob(pattern)):
        text = address.renamed(path.read_text(), "you/fork.two")
        assert owner not in text and not re.search(r"\bcd book\b", text), path.name
    assert address.renamed("github.com/najeebkhan/book", "you/fork") == "github.com/najeebkhan/book"
    monkeypatch.setenv("BRIDGEOUT_REPOSITORY", "https://github.com/you/fork")
    with pytest.raises(ValueError, match="must be owner/name"):
        address.repository()


def test_pages_lead_to_the_address_that_is_wanted(tmp_path):
    """A book of one page and one notebook, built by Sphinx with our extension."""
    link = f"[open](https://colab.research.google.com/github/{address.configured()}/blob/main/x.ipynb)"
    (tmp_path / "index.md").write_text(f"# Title\n\n{link}\n\n```{{toctree}}\nchapter\n```\n")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# Chapter\n\n{link}")])
    nbformat.write(notebook, tmp_path / "chapter.ipynb")
    settings = "-D extensions=myst_nb,address -D nb_execution_mode=off -D html_theme=basic"
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-C", *settings.split(), ".", "html"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "book"), "BRIDGEOUT_REPOSITORY": "you/fork"},
        check=True,
        timeout=300,
    )
    for page in ("index.html", "chapter.html"):
        text = (tmp_path / "html" / page).read_text()
        assert "github/you/fork/blob" in text and address.configured() not in text, page


def test_vendored_files_are_what_they_were():
    folder = ROOT / "book" / "static" / "vendor"
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        checksum, name = line.split()
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == checksum, name


def test_the_ledger_is_that_of_the_records():
    from bridgeout_lite.ledger import CLAIMS, ledger_page, ledger_table, state
    from bridgeout_lite.studies import recorded, sweeps

    assert {path.stem for path in (ROOT / "results").glob("*.jsonl")} <= set(sweeps())
    records = recorded()
    page = ledger_page(records)
    assert state(ledger_table(records)) in (ROOT / "README.md").read_text(), "run `make report`"
    assert (ROOT / "book" / "ledger.md").read_text() == page, "run `make report`"
    assert page.count("<tbody id=") == len(CLAIMS)


def test_no_path_of_a_machine_is_committed():
    for path in [*CHAPTERS, *(ROOT / "book").glob("*.md"), *(ROOT / "results").glob("*.jsonl"), ROOT / "README.md"]:
        assert not re.search(r"(?<![\w.:/])/(?:home|root|Users|tmp|work)/", path.read_text()), path.name


def test_public_names_have_docstrings():
    import bridgeout_lite as bl

    for name in bl.__all__:
        assert (getattr(bl, name).__doc__ or "").strip(), name


def test_pre_commit_runs_what_make_lint_runs():
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    called = r"(?:\$\(BIN\)|\.venv/bin)/([\w-]+(?: (?:check|format))?)|(node --check)"
    linted, hooked = (
        {"".join(found) for found in re.findall(called, text)}
        for text in (recipe, "\n".join(hook["entry"] for hook in hooks))
    )
    assert linted == hooked >= {"ruff check", "ruff format", "mypy", "codespell", "node --check"}
