"""What several test modules share."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from browser import chromium, opening

import bridgeout_lite as bl

# The tensors here are small: one thread is as fast, leaves the other core alone and fixes the order of every sum.
torch.set_num_threads(1)

_DATA = Path(os.environ.get("BRIDGEOUT_DATA") or "/nonexistent")


@pytest.fixture
def real_data():
    """The folder $BRIDGEOUT_DATA with the real CIFAR-10; the test is skipped where there is none."""
    if not (_DATA / "cifar-10-batches-py").is_dir():
        pytest.skip("no CIFAR-10 in $BRIDGEOUT_DATA")
    return _DATA


@pytest.fixture(scope="session")
def digits():
    """A few of the embedded digits: 256 to train on, 64 to watch, 64 to test."""
    return bl.load_images("digits", train=256, valid=64, test=64)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty data folder, and no downloads."""
    monkeypatch.setenv("BRIDGEOUT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("BRIDGEOUT_OFFLINE", "1")
    return tmp_path / "data"


@pytest.fixture(scope="module")
def browser():
    """A running Chromium; the test is skipped where there is none."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser, tmp_path):
    """``opened(figure) -> page`` without a kernel; in the end nothing may have been refused or complained of."""
    with opening(browser, tmp_path) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def axe():
    """axe-core's script, from the package that brings it."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("no axe-core: `pip install -r requirements.txt`")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")
