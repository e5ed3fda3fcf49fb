"""Data: what is loaded, how it is split, and that every failure says in one line what to do and loses nothing."""

import dataclasses
import errno
import hashlib
import io
import math
import os
import pickle
import tarfile
import tempfile
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
import torch

import bridgeout_lite as bl
from bridgeout_lite import data, tv_compat
from bridgeout_lite.data import DataError, load_images
from bridgeout_lite.text import load_text

FOLDER = "cifar-10-batches-py"
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
META = ["batches.meta", "test_batch"]


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def one_line(error):
    """The message of a caught exception, which must be one line."""
    message = str(error.value)
    assert message and "\n" not in message
    return message


# --- a tiny data set in CIFAR's own layout, and a server of mirrors ---------------------------------------------------


def pack(files):
    """The bytes of a .tar.gz with these files in CIFAR-10's folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tiny_files():
    """5 x 20 training and 20 test images, pickled as CIFAR-10 is."""
    rng = np.random.default_rng(0)

    def batch():
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        return pickle.dumps({"data": pixels, "labels": rng.integers(0, 10, 20).tolist()}, protocol=2)

    files = {name: batch() for name in [*BATCHES, "test_batch"]}
    return files | {"batches.meta": pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=2)}


@pytest.fixture
def tiny(tiny_files, monkeypatch):
    """torchvision and the package expect this tiny set in the place of CIFAR-10; gives its archive's bytes."""
    torchvision_datasets = tv_compat.import_torchvision().datasets
    real = torchvision_datasets.CIFAR10

    class Tiny(real):
        train_list = [[name, md5(tiny_files[name])] for name in BATCHES]  # noqa: RUF012
        test_list = [["test_batch", md5(tiny_files["test_batch"])]]  # noqa: RUF012
        meta = real.meta | {"md5": md5(tiny_files["batches.meta"])}

    monkeypatch.setattr(torchvision_datasets, "CIFAR10", Tiny)
    archive = pack(tiny_files)
    use_mirrors(monkeypatch, archive, "http://127.0.0.1:9/none")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    monkeypatch.delenv("BRIDGEOUT_OFFLINE", raising=False)
    monkeypatch.delenv("BRIDGEOUT_DATA", raising=False)
    return archive


def use_mirrors(monkeypatch, archive, *urls):
    monkeypatch.setitem(data._ARCHIVES, "cifar10", (data.CIFAR10_ARCHIVE, len(archive), md5(archive), urls))


@pytest.fixture
def mirror(tiny, monkeypatch):
    """A server on this machine. Its pages: /good, /wrong (other bytes), /short (closes in the middle), else 404.
    ``mirror.use("wrong", "good")`` makes these the addresses of CIFAR-10; ``mirror.hits`` lists what was asked for."""
    hits = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            body = {"/good": tiny, "/wrong": tiny[:-1] + b"?", "/short": tiny[: len(tiny) // 2]}.get(self.path)
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(tiny) if body else 0))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        yield types.SimpleNamespace(
            hits=hits, use=lambda *pages: use_mirrors(monkeypatch, tiny, *(address + page for page in pages))
        )
        server.shutdown()
        thread.join()


def load(root, **options):
    return load_images("cifar10", root, valid=10, **options)


def contents(root):
    """The files in a folder, but for locks, which stay."""
    files = [f for f in Path(root).rglob("*") if f.is_file() and f.suffix != ".lock"]
    return sorted(str(f.relative_to(root)) for f in files)


# --- names, sizes, splits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loader", "known"), [(load_images, data.IMAGE_SETS), (load_text, bl.text.TEXT_SETS)])
@pytest.mark.parametrize("name", ["imagenet", "", None, "CIFAR10"])
def test_unknown_data_set_lists_the_known_ones(loader, known, name):
    with pytest.raises(ValueError, match="name must be one of") as error:
        loader(name)
    assert repr(name) in one_line(error) and all(k in one_line(error) for k in known)


def test_digits_need_nothing_and_look_like_cifar(offline):
    images = load_images("digits")
    assert images.name == "digits" and images.embedded and images.num_classes == 10
    assert images.classes == tuple("0123456789")
    assert [len(s) for s in (images.train, images.valid, images.test)] == [1151, 287, 359]  # 1797 in all
    for split in (images.train, images.valid, images.test):
        assert split.x.shape == (len(split), 3, 32, 32) and split.x.dtype == torch.uint8
        assert split.y.shape == (len(split),) and split.y.dtype == torch.int64
        assert set(split.y.tolist()) == set(range(10))
    x = images.train.x
    assert x.min() == 0 and x.max() == 255
    assert torch.equal(x[:, 0], x[:, 1]) and torch.equal(x[:, 0], x[:, 2])  # grey
    assert torch.equal(x, x[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))  # 8x8, each pixel 4x4
    assert not offline.exists()  # nothing was written
    assert "1151 training, 287 validation, 359 test images, 10 classes, on cpu" in repr(images)


@pytest.fixture
def numbered(monkeypatch):
    """A stand-in for the digits whose images carry their own number: training ones 0 to 199, test ones 1000 on."""

    def pixels():
        def images(first, count):
            n = torch.arange(first, first + count)
            x = torch.zeros(count, 3, 32, 32, dtype=torch.uint8)
            x[:, 0, 0, 0], x[:, 0, 0, 1] = (n // 256).byte(), (n % 256).byte()
            return x, n % 10

        return *images(0, 200), *images(1000, 50), tuple(map(str, range(10)))

    monkeypatch.setattr(data, "_digits", pixels)


def ids(split):
    n = split.x[:, 0, 0, 0].long() * 256 + split.x[:, 0, 0, 1]
    assert torch.equal(split.y, n % 10)  # every label went with its image
    return n.tolist()


def test_splits_are_disjoint_complete_and_fixed_by_the_seed(numbered):
    images = load_images("digits", valid=40, seed=3)
    train, valid, test = ids(images.train), ids(images.valid), ids(images.test)
    assert len(train) == 160 and len(valid) == 40
    assert sorted(train + valid) == list(range(200))
    assert test == list(range(1000, 1050))
    assert train != sorted(train)  # drawn, not cut off
    again, other = load_images("digits", valid=40, seed=3), load_images("digits", valid=40, seed=4)
    assert ids(again.train) == train and ids(again.valid) == valid and again.checksum == images.checksum
    assert ids(other.valid) != valid and ids(other.test) == test and other.checksum != images.checksum


def test_fewer_training_images_leave_validation_and_test_alone(numbered):
    whole, few = load_images("digits", valid=40), load_images("digits", train=30, valid=40, test=7)
    assert ids(few.train) == ids(whole.train)[:30]
    assert ids(few.valid) == ids(whole.valid)
    assert ids(few.test) == ids(whole.test)[:7]
    assert few.mean == whole.mean and few.std == whole.std  # of the whole training set, whatever is used of it
    assert len(load_images("digits", train=np.int64(5)).train) == 5


def test_few_digits_give_at_most_a_fifth_to_validation(numbered):
    assert len(load_images("digits", valid=5000).valid) == 40
    assert len(load_images("digits", valid=0).valid) == 0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": 0}, "train must be a whole number from 1 to 160, got 0"),
        ({"train": 161}, "train must be a whole number from 1 to 160, got 161"),
        ({"train": -3}, "train must be a whole number from 1 to 160, got -3"),
        ({"train": 10.0}, "train must be a whole number from 1 to 160, got 10.0"),
        ({"train": "10"}, "train must be a whole number from 1 to 160, got '10'"),
        ({"valid": -1}, "valid must be a whole number from 0 to 199, got -1"),
        ({"valid": 0.1}, "valid must be a whole number from 0 to 199, got 0.1"),
        ({"test": 0}, "test must be a whole number from 1 to 50, got 0"),
        ({"test": 51}, "test must be a whole number from 1 to 50, got 51"),
    ],
)
def test_sizes_that_do_not_fit(numbered, sizes, message):
    with pytest.raises(ValueError) as error:
        load_images("digits", **sizes)
    assert message in one_line(error) and "digits" in one_line(error)


def test_validation_larger_than_the_set(tiny, mirror, tmp_path):
    mirror.use("good")
    with pytest.raises(ValueError, match=r"cifar10: valid must be a whole number from 0 to 99, got 5000"):
        load_images("cifar10", tmp_path, train=50)  # the default valid=5000


def test_normalize_on_the_whole_training_set():
    images = load_images("digits")
    x = torch.cat([images.train.x, images.valid.x])
    before = x.clone()
    z = images.normalize(x)
    assert torch.equal(x, before) and z.dtype == torch.float32 and z.is_contiguous(memory_format=torch.channels_last)
    z = z.double()
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), unbiased=False), torch.ones(3).double(), atol=1e-5, rtol=0)
    single = x[:4].float().to(memory_format=torch.channels_last)
    images.normalize(single)
    assert torch.equal(single, before[:4].float())  # not changed in place even where nothing has to be converted


def test_moments_channel_by_channel(tiny, mirror, tmp_path):
    mirror.use("good")
    images = load(tmp_path)
    x = torch.cat([images.train.x, images.valid.x]).double()
    assert images.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert images.std == pytest.approx(x.std((0, 2, 3), unbiased=False).tolist(), rel=1e-12)


def test_checksum_is_stable_and_sees_everything():
    images = load_images("digits")
    # If this changes, records made before can no longer be compared with new ones.
    assert images.checksum == "1cc5c8d9de96b1ee"
    assert load_images("digits", root="/elsewhere").checksum == images.checksum
    assert images.to("cpu").checksum == images.checksum
    others = [load_images("digits", **o).checksum for o in ({"train": 100}, {"valid": 100}, {"test": 100}, {"seed": 1})]
    assert len({images.checksum, *others}) == 5


def test_checksum_sees_a_single_pixel_or_label(monkeypatch):
    whole, original = load_images("digits").checksum, data._digits()
    for part in range(4):
        changed = [t.clone() if isinstance(t, torch.Tensor) else t for t in original]
        changed[part].view(-1)[0] += 1
        monkeypatch.setattr(data, "_digits", lambda changed=changed: tuple(changed))
        assert load_images("digits").checksum != whole


def test_images_move_and_stay_frozen():
    images = load_images("digits", train=8, valid=8, test=8)
    moved = images.to("meta")
    assert moved.device.type == "meta" and moved.test.y.device.type == "meta" and images.device.type == "cpu"
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.name = "cifar10"


def test_loading_leaves_the_global_generators_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    load_images("digits")
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BRIDGEOUT_DATA", "~/somewhere")
    assert data.data_folder() == Path.home() / "somewhere"
    assert data.data_folder(str(tmp_path)) == tmp_path
    monkeypatch.setenv("BRIDGEOUT_DATA", "")
    assert data.data_folder() == Path(pooch.os_cache("bridgeout_lite"))


# --- auto: a fallback, never a silent one -----------------------------------------------------------------------------


def test_auto_falls_back_to_digits_and_says_so_once(offline, capsys):
    images = load_images("auto")
    assert images.name == "digits" and images.embedded
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert str(offline) in printed.err and "downloads are off" in printed.err and "digits instead" in printed.err


def test_auto_uses_cifar_silently_where_it_is(tiny, mirror, tmp_path, capsys, monkeypatch):
    mirror.use("good")
    load(tmp_path)
    capsys.readouterr()
    monkeypatch.setenv("BRIDGEOUT_OFFLINE", "1")
    images = load_images("auto", tmp_path, valid=10)
    assert images.name == "cifar10" and not images.embedded and capsys.readouterr().err == ""


def test_auto_tells_of_failed_mirrors_and_of_damage(mirror, tmp_path, capsys):
    mirror.use("absent", "wrong")
    assert load_images("auto", tmp_path).name == "digits"
    last = capsys.readouterr().err.splitlines()[-1]
    assert "no mirror gave it" in last and "wrong checksum" in last and "digits instead" in last


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_set_asked_for_by_name_is_never_swapped(offline, name):
    with pytest.raises(DataError) as error:
        load_images(name)
    message = one_line(error)
    assert str(offline) in message and "downloads are off" in message and f"{name[:5]}-{name[5:]}-python" in message


# --- downloads --------------------------------------------------------------------------------------------------------


def test_download_unpack_and_read(tiny, mirror, tmp_path, capsys, tiny_files):
    mirror.use("good")
    images = load(tmp_path / "new" / "folder")
    assert "fetching cifar-10-python.tar.gz" in capsys.readouterr().err
    assert images.name == "cifar10" and images.classes == tuple(f"class {i}" for i in range(10))
    assert [len(s) for s in (images.train, images.valid, images.test)] == [90, 10, 20]
    stored = pickle.loads(tiny_files["test_batch"])
    assert np.array_equal(images.test.x.numpy(), stored["data"].reshape(-1, 3, 32, 32))
    assert images.test.y.tolist() == stored["labels"]
    again = load(tmp_path / "new" / "folder")
    assert again.checksum == images.checksum and mirror.hits == ["/good"] and capsys.readouterr().err == ""


@pytest.mark.parametrize("bad", ["absent", "wrong", "short"])
def test_the_next_mirror_is_tried(mirror, tmp_path, bad):
    mirror.use(bad, "good")
    assert load(tmp_path).name == "cifar10"
    assert mirror.hits == [f"/{bad}", "/good"]
    assert contents(tmp_path) == sorted([data.CIFAR10_ARCHIVE, *(f"{FOLDER}/{f}" for f in [*BATCHES, *META])])


def test_all_mirrors_failing_says_why_and_where_to_put_it_by_hand(tiny, mirror, tmp_path, monkeypatch):
    mirror.use("absent", "wrong", "short")
    *archive, urls = data._ARCHIVES["cifar10"]
    monkeypatch.setitem(data._ARCHIVES, "cifar10", (*archive, (*urls, "http://127.0.0.1:9/none")))
    with pytest.raises(DataError) as error:
        load(tmp_path)
    message = one_line(error)
    for reason in ("HTTPError", "wrong checksum", "ChunkedEncodingError", "127.0.0.1:9: ConnectionError"):
        assert reason in message
    assert f"put {data.CIFAR10_ARCHIVE} (md5 {md5(tiny)}) into {tmp_path} by hand" in message
    assert contents(tmp_path) == []
    (tmp_path / data.CIFAR10_ARCHIVE).write_bytes(tiny)  # as told
    assert load(tmp_path).name == "cifar10"


def test_offline_asks_nobody(mirror, tmp_path, monkeypatch):
    mirror.use("good")
    monkeypatch.setenv("BRIDGEOUT_OFFLINE", "1")
    with pytest.raises(DataError, match="downloads are off"):
        load(tmp_path)
    monkeypatch.delenv("BRIDGEOUT_OFFLINE")
    with pytest.raises(DataError, match="downloads are off"):
        load(tmp_path, download=False)
    assert mirror.hits == [] and contents(tmp_path) == []


def test_an_archive_put_there_by_hand_needs_no_network(tiny, mirror, tmp_path):
    (tmp_path / data.CIFAR10_ARCHIVE).write_bytes(tiny)
    assert load(tmp_path, download=False).name == "cifar10"
    assert mirror.hits == []


def test_truncated_archive_is_fetched_again(tiny, mirror, tmp_path, capsys):
    mirror.use("good")
    (tmp_path / data.CIFAR10_ARCHIVE).write_bytes(tiny[:1000])
    assert load(tmp_path).name == "cifar10"
    said = capsys.readouterr().err
    assert "is damaged (1,000 of" in said and "fetching it again" in said
    assert (tmp_path / data.CIFAR10_ARCHIVE).read_bytes() == tiny


@pytest.mark.parametrize("how", ["download=False", "BRIDGEOUT_OFFLINE"])
def test_truncated_archive_without_download(tiny, mirror, tmp_path, monkeypatch, how):
    if how == "BRIDGEOUT_OFFLINE":
        monkeypatch.setenv(how, "1")
    target = tmp_path / data.CIFAR10_ARCHIVE
    target.write_bytes(tiny[:1000])
    with pytest.raises(DataError) as error:
        load(tmp_path, download=how != "download=False")
    message = one_line(error)
    assert f"{target} is damaged (1,000 of {len(tiny):,} bytes, wrong md5)" in message and "whole copy" in message
    assert target.read_bytes() == tiny[:1000] and mirror.hits == []  # the user's file is the user's to delete


@pytest.mark.parametrize("name", ["data_batch_3", *META])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_unpacked_file_is_unpacked_again(tiny, tmp_path, name, damage):
    (tmp_path / data.CIFAR10_ARCHIVE).write_bytes(tiny)
    checksum = load(tmp_path).checksum
    file = tmp_path / FOLDER / name
    whole = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(whole[:-1] + (b"?" if damage == "changed" else b""))
    archive = (tmp_path / data.CIFAR10_ARCHIVE).rename(tmp_path / "aside")
    with pytest.raises(DataError, match=r"not whole in .*, and downloads are off: put cifar-10-python.tar.gz there"):
        load(tmp_path, download=False)
    archive.rename(tmp_path / data.CIFAR10_ARCHIVE)
    assert load(tmp_path, download=False).checksum == checksum and file.read_bytes() == whole


def test_ctrl_c_in_the_middle_of_a_download(mirror, tmp_path, monkeypatch, capsys):
    mirror.use("good")
    real = requests.Response.iter_content

    def interrupted(self, chunk_size):
        yield next(real(self, chunk_size))
        assert any(f.stat().st_size for f in tmp_path.iterdir())  # it is half written now
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(requests.Response, "iter_content", interrupted)
        for name in ("cifar10", "auto"):  # auto does not take it for a reason to use the digits
            with pytest.raises(KeyboardInterrupt):
                load_images(name, tmp_path, valid=10)
            last = capsys.readouterr().err.splitlines()[-1]
            assert last.startswith("interrupted: run the same call again") and str(tmp_path) in last
            assert contents(tmp_path) == []
    assert load(tmp_path).name == "cifar10"


def test_full_disk_during_the_download(mirror, tmp_path, monkeypatch):
    mirror.use("good", "good")

    class Full(io.FileIO):
        def write(self, content):
            super().write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pooch.downloaders.open", lambda path, mode: Full(path, "w"), raising=False)
        with pytest.raises(DataError) as error:
            load(tmp_path)
    message = one_line(error)
    assert f"the disk of {tmp_path} is full" in message and "free 400 MB" in message and "BRIDGEOUT_DATA" in message
    assert mirror.hits == ["/good"]  # another mirror would not help
    assert contents(tmp_path) == []
    assert load(tmp_path).name == "cifar10"


def test_full_disk_during_unpacking_keeps_the_archive(mirror, tmp_path, monkeypatch):
    mirror.use("good")

    def full(source, target, length=None, *rest, **options):
        target.write(source.read(100))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", full)
        with pytest.raises(DataError, match=r"the disk of .* is full: free 400 MB"):
            load(tmp_path)
    assert data.CIFAR10_ARCHIVE in contents(tmp_path)
    assert load(tmp_path).name == "cifar10" and mirror.hits == ["/good"]  # not fetched twice


def test_ctrl_c_during_unpacking_keeps_the_archive(mirror, tmp_path, monkeypatch):
    mirror.use("good")

    def interrupted(source, target, length=None, *rest, **options):
        target.write(source.read(100))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load(tmp_path)
    assert load(tmp_path).name == "cifar10" and mirror.hits == ["/good"]


def refuse(*_, **__):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


@pytest.mark.parametrize(
    ("owner", "call", "how"),
    [
        (Path, "mkdir", refuse),  # the folder cannot be made
        (tempfile, "NamedTemporaryFile", refuse),  # it is there, but nothing can be written into it
        (tempfile, "NamedTemporaryFile", read_only),
        (tarfile.TarFile, "extractall", refuse),
    ],
)
def test_no_permission(mirror, tmp_path, monkeypatch, owner, call, how):
    mirror.use("good", "good")
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, how)
        with pytest.raises(DataError) as error:
            load(tmp_path)
    message = one_line(error)
    assert f"no permission to read and write in {tmp_path}" in message and "BRIDGEOUT_DATA" in message
    assert load(tmp_path).name == "cifar10"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_for_real(mirror, tmp_path):
    mirror.use("good")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="no permission"):
            load(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_file_where_the_folder_should_be(mirror, tmp_path):
    mirror.use("good")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(DataError) as error:
        load(tmp_path / "file")
    assert "cannot be used" in one_line(error) and "BRIDGEOUT_DATA" in one_line(error)
    assert (tmp_path / "file").read_text() == "precious"


# --- nothing is unpickled before its checksum is right ----------------------------------------------------------------


class Armed:
    """Unpickling it makes a folder."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture
def armed(tmp_path, tiny_files):
    """The bytes of an archive with a malicious pickle in each file, and the folder that shows that one was read."""
    marker = tmp_path / "owned"
    content = pickle.dumps(Armed(marker))
    pickle.loads(content)
    assert marker.is_dir()  # it does work
    marker.rmdir()
    return types.SimpleNamespace(archive=pack(dict.fromkeys(tiny_files, content)), pickle=content, marker=marker)


def test_a_malicious_archive_is_never_unpickled(armed, mirror, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    (root / data.CIFAR10_ARCHIVE).write_bytes(armed.archive)
    with pytest.raises(DataError, match="damaged"):
        load(root, download=False)
    assert contents(root) == [data.CIFAR10_ARCHIVE]  # not even unpacked
    mirror.use("absent")
    with pytest.raises(DataError, match="no mirror"):
        load(root)
    assert not armed.marker.exists()
    mirror.use("good")
    assert load(root).name == "cifar10" and not armed.marker.exists()


def test_a_malicious_mirror_is_never_unpickled(armed, mirror, tmp_path, tiny, monkeypatch):
    root = tmp_path / "data"
    monkeypatch.setattr(requests.Response, "iter_content", lambda self, chunk_size: iter([armed.archive]))
    mirror.use("good", "good")
    with pytest.raises(DataError, match=r"wrong checksum.*wrong checksum"):
        load(root)
    assert contents(root) == [] and not armed.marker.exists()


@pytest.mark.parametrize("name", ["data_batch_1", *META])
def test_a_malicious_unpacked_file_is_never_unpickled(armed, tiny, tmp_path, name):
    root = tmp_path / "data"
    root.mkdir()
    (root / data.CIFAR10_ARCHIVE).write_bytes(tiny)
    load(root)
    (root / FOLDER / name).write_bytes(armed.pickle)
    assert load(root, download=False).name == "cifar10"  # replaced from the archive
    (root / FOLDER / name).write_bytes(armed.pickle)
    (root / data.CIFAR10_ARCHIVE).unlink()
    with pytest.raises(DataError):
        load(root, download=False)
    assert not armed.marker.exists()


# --- the real ones ----------------------------------------------------------------------------------------------------

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_archives_are_the_known_ones():
    assert data._ARCHIVES["cifar10"][:3] == (
        "cifar-10-python.tar.gz",
        170_498_071,
        "c58f30108f718f92721af3b95e74349a",
    )
    datasets = tv_compat.import_torchvision().datasets
    for name, known in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        file, _, checksum, urls = data._ARCHIVES[name]
        assert (file, checksum) == (known.filename, known.tgz_md5)
        assert all(u.startswith("https://") and u.endswith(file) for u in urls) and urls[-1] == known.url


def test_real_cifar10(real_data, capsys):
    images = load_images("auto", real_data)
    assert images.name == "cifar10" and not images.embedded and capsys.readouterr().err == ""
    assert [len(s) for s in (images.train, images.valid, images.test)] == [45000, 5000, 10000]
    assert images.classes == CIFAR10_CLASSES
    assert images.train.x.shape == (45000, 3, 32, 32) and images.train.x.dtype == torch.uint8
    counts = torch.bincount(torch.cat([images.train.y, images.valid.y]))
    assert counts.tolist() == [5000] * 10 and torch.bincount(images.test.y).tolist() == [1000] * 10
    assert images.test.y[:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, airplane, as everybody knows
    # the constants found in everybody's code
    assert [m / 255 for m in images.mean] == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert [s / 255 for s in images.std] == pytest.approx([0.2470, 0.2435, 0.2616], abs=1e-4)
    assert images.checksum == "1acc2d2ee61015b8"  # every record that says cifar10 with the usual splits says this
    x = images.normalize(torch.cat([images.train.x[:5000], images.valid.x]))
    assert x.mean().abs() < 0.05 and abs(x.std() - 1) < 0.05


def test_real_cifar100(real_data):
    if not (real_data / "cifar-100-python").is_dir():
        pytest.skip("no CIFAR-100 in $BRIDGEOUT_DATA")
    images = load_images("cifar100", real_data, download=False)
    assert images.name == "cifar100" and images.num_classes == 100 and images.classes[0] == "apple"
    assert [len(s) for s in (images.train, images.valid, images.test)] == [45000, 5000, 10000]
    assert torch.bincount(images.test.y).tolist() == [100] * 100


# --- text -------------------------------------------------------------------------------------------------------------

PTB = {f"ptb/ptb.{part}.txt": f" a {part} sentence <unk>\n" * 3 for part in ("train", "valid", "test")}
SHAKESPEARE = {"tinyshakespeare/input.txt": "".join(f"Line {i}: Ütterly né.\n" for i in range(100))}


def install(monkeypatch, root, name, files):
    """Put small stand-ins of a corpus into a folder, under checksums that fit."""
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(text.encode())
    monkeypatch.setitem(bl.text._TEXT_FILES, name, tuple((f, md5(t.encode())) for f, t in files.items()))


def test_text_falls_back_to_the_manual_and_says_so_once(offline, capsys):
    corpus = load_text("auto")
    assert corpus.name == "python-manual" and corpus.embedded
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "Python reference manual" in printed.err
    whole = corpus.train + corpus.valid + corpus.test
    assert len(whole) > 300_000 and "statement" in corpus.train
    assert len(corpus.train) == int(0.9 * len(whole)) and abs(len(corpus.valid) - len(corpus.test)) <= 1
    again = load_text("python-manual")
    assert again == corpus and capsys.readouterr().err == ""
    assert f"{len(corpus.train)} training" in repr(corpus)


def test_text_of_one_file_is_split_in_order(offline, monkeypatch):
    install(monkeypatch, offline, "tinyshakespeare", SHAKESPEARE)
    corpus = load_text("tinyshakespeare")
    (text,) = SHAKESPEARE.values()
    assert corpus.train + corpus.valid + corpus.test == text and not corpus.embedded
    assert [len(corpus.train), len(corpus.valid)] == [math.floor(0.9 * len(text)), math.floor(0.05 * len(text))]


def test_text_of_three_files(offline, monkeypatch, capsys):
    install(monkeypatch, offline, "ptb", PTB)
    corpus = load_text("auto")
    assert corpus.name == "ptb" and [corpus.train, corpus.valid, corpus.test] == list(PTB.values())
    assert capsys.readouterr().err == ""
    assert load_text("ptb", offline).checksum == corpus.checksum != load_text("python-manual").checksum


def test_text_damaged_or_missing(offline, monkeypatch):
    install(monkeypatch, offline, "ptb", PTB)
    file = offline / "ptb/ptb.valid.txt"
    file.write_text("half")
    for name in ("ptb", "auto"):  # auto does not step over a damaged corpus in silence
        with pytest.raises(DataError) as error:
            load_text(name)
        assert f"{file} is damaged (wrong md5, 4 bytes)" in one_line(error) and "replace it" in one_line(error)
    assert file.read_text() == "half"
    file.unlink()
    with pytest.raises(DataError) as error:
        load_text("ptb")
    assert f"{file} is missing" in one_line(error) and "put it there" in one_line(error)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="no permission"):
        load_text("ptb")


@pytest.mark.parametrize(
    ("name", "size", "start"),
    [("ptb", 5_101_618, " aer banknote"), ("tinyshakespeare", 1_003_854, "First Citizen"), ("wikitext-2", None, None)],
)
def test_real_text(real_data, name, size, start):
    if not (real_data / name).is_dir():
        pytest.skip(f"no {name} in $BRIDGEOUT_DATA")
    corpus = load_text(name, real_data)
    assert corpus.name == name and min(map(len, (corpus.train, corpus.valid, corpus.test))) > 50_000
    assert size is None or (len(corpus.train) == size and corpus.train.startswith(start))


# --- torchvision beside a CPU-only torch ------------------------------------------------------------------------------


def test_torchvision_imports():
    torchvision = tv_compat.import_torchvision()
    from torchvision.datasets import CIFAR10

    assert torchvision.__version__ and CIFAR10.tgz_md5 == data._ARCHIVES["cifar10"][2]
    assert tv_compat.import_torchvision() is torchvision


@pytest.fixture
def fake_import(monkeypatch):
    """Replace the import of torchvision by a function, and sys.modules by a dictionary that is returned."""

    def install(function):
        modules = {"torchvision": 1, "torchvision.ops": 2, "torchvisionary": 3, "torch": 4}
        monkeypatch.setattr(tv_compat, "library", lambda name, user: function(name))
        monkeypatch.setattr(tv_compat, "sys", types.SimpleNamespace(modules=modules))
        monkeypatch.setattr(tv_compat, "_libraries", [])
        return modules

    return install


def test_missing_operators_are_declared_and_the_import_tried_again(fake_import):
    missing, module = ["bl_test_one", "bl_test_two"], types.ModuleType("torchvision")

    def import_module(name):
        assert name == "torchvision"
        for operator in missing:
            if not hasattr(torch.ops.torchvision, operator):
                raise RuntimeError(f"operator torchvision::{operator} does not exist")
        return module

    modules = fake_import(import_module)
    assert tv_compat.import_torchvision() is module
    assert len(tv_compat._libraries) == 2
    assert modules == {"torchvisionary": 3, "torch": 4}  # the half-imported package is forgotten, nothing else


def test_other_import_failures_are_passed_on(fake_import):
    def import_module(name):
        raise RuntimeError("libfoo.so: broken")

    fake_import(import_module)
    with pytest.raises(RuntimeError, match="broken"):
        tv_compat.import_torchvision()


def test_an_import_that_never_succeeds_ends(fake_import):
    tries = []

    def import_module(name):
        tries.append(name)
        raise RuntimeError(f"operator torchvision::bl_test_endless{len(tries)} does not exist")

    fake_import(import_module)
    with pytest.raises(ImportError, match=r"matching pair \(see requirements.txt\)"):
        tv_compat.import_torchvision()
    assert len(tries) == 8


def test_public_names():
    assert bl.load_images is load_images and bl.load_text is load_text and issubclass(bl.DataError, RuntimeError)


# --- what another process, or a virus scanner, is doing at the same time ----------------------------------------------


def test_who_finds_the_archive_half_unpacked_waits_for_the_one_that_unpacks(mirror, tmp_path, monkeypatch):
    from torchvision.datasets import utils

    mirror.use("good")
    started, found = threading.Event(), []
    unpack = utils.extract_archive

    def slowly(*args):
        started.set()
        second.join(0.5)  # it would be done by now if it did not wait
        found.append("unpacked")
        return unpack(*args)

    def second_load():
        started.wait()
        found.append(load(tmp_path).name)

    monkeypatch.setattr(utils, "extract_archive", slowly)
    second = threading.Thread(target=second_load)
    second.start()
    load(tmp_path)
    second.join()
    assert found == ["unpacked", "cifar10"]


@pytest.mark.parametrize("times", [1, 9])
def test_a_file_that_is_held_for_a_moment_is_put_in_place_later(tmp_path, monkeypatch, times):
    (tmp_path / "new").write_text("new")
    real, refusals, waits = os.replace, [PermissionError(13, "held")] * times, []

    def replace(a, b):
        if refusals:
            raise refusals.pop()
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(data.time, "sleep", waits.append)
    if times == 1:
        data.put_in_place(tmp_path / "new", tmp_path / "old")
        assert (tmp_path / "old").read_text() == "new" and len(waits) == 1
    else:  # it stays so: there is no permission
        with pytest.raises(PermissionError, match="held"):
            data.put_in_place(tmp_path / "new", tmp_path / "old")
        assert sum(waits) == 1.0
