"""Training: the recipe does what it says, the same seed gives the same bits, and a killed run loses nothing."""

import contextlib
import dataclasses
import errno
import math
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from scipy import stats
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

import bridgeout_lite as bl
from bridgeout_lite import CheckpointError, Recipe, training
from bridgeout_lite.cudagraph import Replay
from bridgeout_lite.data import Images, Split
from bridgeout_lite.epochs import epoch_seed, identify
from bridgeout_lite.studies.arena import ArenaExperiment
from bridgeout_lite.studies.evolution import EvolutionExperiment
from bridgeout_lite.studies.feature_flow import FlowExperiment
from bridgeout_lite.training import augment, evaluate, fit, pick_device, pick_precision

QUICK = Recipe(epochs=3, batch_size=64, lr=0.05, precision="float32")


def build(seed=0, sparseout=None, bridgeout=None, width=0.25):
    """A narrow network, the same for the same seed, with (p, q) of the noise if given."""
    torch.manual_seed(seed)
    model = bl.build_model("smallcnn", width=width)
    if sparseout:
        bl.attach_sparseout(model, *sparseout)
    if bridgeout:
        bl.attach_bridgeout(model, *bridgeout)
    return model


def noisy(seed=0):
    return build(seed, sparseout=(0.2, 1.5), bridgeout=(0.1, 1.0))


def train(model, images, recipe=QUICK, **options):
    return fit(model, images, recipe, **({"device": "cpu", "progress": False} | options))


def same_bits(a, b):
    """Whether two models hold the same tensors, running statistics included, bit for bit."""
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def same_history(a, b):
    timings = ["seconds", "images_per_second"]
    return a.frame.drop(columns=timings).equals(b.frame.drop(columns=timings))


def one_line(error):
    message = str(error.value)
    assert message and "\n" not in message
    return message


def made_up(x, y, valid=None, test=None):
    """An image set of given tensors."""
    few = Split(x[:8], y[:8])
    spread = (0.0,) * x.shape[1], (1.0,) * x.shape[1]
    return Images("made-up", Split(x, y), valid or few, test or few, tuple("0123456789"), *spread, "0" * 16, True)


class Stop:
    """Calls ``what`` in the forward pass number ``step`` (from 0) of epoch ``epoch`` (from 0) of training."""

    def __init__(self, model, what, epoch, step, steps=256 // QUICK.batch_size):
        self.left, self.what = epoch * steps + step, what
        self.handle = model.register_forward_pre_hook(self)

    def __call__(self, module, inputs):
        if module.training:
            if self.left == 0:
                self.handle.remove()
                self.what()
            self.left -= 1


def ctrl_c():
    raise KeyboardInterrupt


# --- what training does -----------------------------------------------------------------------------------------------


def test_fit_learns_the_digits():
    images = bl.load_images("digits", train=512, valid=100)
    model = build(width=0.5)
    history = train(model, images, Recipe(epochs=5, batch_size=32, flip=False, crop=2, precision="float32"))
    losses = history.frame["train_loss"]
    assert losses.iloc[0] > 1 and losses.iloc[-1] < losses.iloc[0] / 2
    loss, accuracy = evaluate(model, images, "test")
    assert accuracy > 75 and loss < 1  # 10 % is chance


def test_history(digits):
    history = train(build(), digits)
    assert list(history.frame.columns) == [
        *("epoch", "lr", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "seconds"),
        "images_per_second",
    ]
    assert history.frame["epoch"].tolist() == [1, 2, 3]
    assert history.device == "cpu" and history.precision == "float32"
    last = history.last_row
    assert last == history.frame.iloc[-1].to_dict() and last["epoch"] == 3 and last["seconds"] > 0
    assert last["images_per_second"] == pytest.approx(256 / last["seconds"])
    assert history.frame.map(math.isfinite).all(axis=None)


def test_last_row_is_measured_on_the_final_weights(digits):
    model = build()
    last = train(model, digits).last_row
    assert (last["valid_loss"], last["valid_accuracy"]) == evaluate(model, digits, "valid")
    assert model.training is True


def test_each_epoch_sees_every_image_once_in_a_new_order():
    x = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    seen = []
    model.register_forward_pre_hook(lambda m, a: seen.append(a[0][:, 0, 0, 0].long()) if m.training else None)
    images = made_up(x, torch.zeros(200).long())
    recipe = Recipe(epochs=2, batch_size=64, lr=1e-6, flip=False, crop=0, precision="float32")
    train(model, images, recipe)
    assert [len(batch) for batch in seen] == [64] * 6  # the incomplete fourth batch of 8 is left out
    first, second = torch.cat(seen[:3]).tolist(), torch.cat(seen[3:]).tolist()
    assert len(set(first)) == len(set(second)) == 192
    assert first != second and first != sorted(first)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_optimizer_is_nesterov_sgd_with_weight_decay_and_clipping(digits, clip):
    """Against the formulas in float64, on the batches that the model was shown."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    weight, bias = (p.detach().double().clone() for p in model.parameters())
    batches = []
    model.register_forward_pre_hook(lambda m, a: batches.append(a[0].flatten(1).double()) if m.training else None)
    labels = {
        tuple(z.tolist()): int(y)
        for z, y in zip(digits.normalize(digits.train.x)[:, 0, ::4, ::4].flatten(1), digits.train.y, strict=True)
    }
    recipe = Recipe(epochs=2, batch_size=64, lr=0.01, momentum=0.8, weight_decay=0.1, schedule="constant", clip=clip)
    train(model, digits, dataclasses.replace(recipe, flip=False, crop=0, precision="float32"))
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for x in batches:
        small = x.view(-1, 3, 32, 32)[:, 0, ::4, ::4].flatten(1).float()
        y = torch.tensor([labels[tuple(z.tolist())] for z in small])
        error = (F.softmax(x @ weight.T + bias, 1) - F.one_hot(y, 10)) / len(y)
        gradients = [error.T @ x, error.sum(0)]
        if clip:
            norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
            assert norm > clip
            gradients = [g * clip / norm for g in gradients]
        for value, gradient, v in zip((weight, bias), gradients, speed, strict=True):
            gradient = gradient + 0.1 * value
            v.mul_(0.8).add_(gradient)
            value.sub_(0.01 * (gradient + 0.8 * v))
    torch.testing.assert_close(model[1].weight.double(), weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(model[1].bias.double(), bias, rtol=1e-3, atol=1e-5)


EPOCHS, STEPS, PEAK = 5, 4, 0.2
TOTAL = EPOCHS * STEPS


def onecycle(step):
    top = 0.2 * (TOTAL + 1) - 1  # up for a fifth
    if step <= top:
        return PEAK / 25 + (PEAK - PEAK / 25) * step / top
    return PEAK + (PEAK / 25e4 - PEAK) * (step - top) / (TOTAL - top)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"schedule": "onecycle"}, onecycle),
        ({"schedule": "cosine"}, lambda step: PEAK * (1 + math.cos(math.pi * step / TOTAL)) / 2),
        ({"schedule": "constant"}, lambda step: PEAK),
        ({"schedule": "constant", "milestones": (2,)}, lambda step: PEAK),
        (
            {"schedule": "steps", "milestones": [2, 4], "gamma": 0.1},
            lambda step: PEAK * 0.1 ** ((step >= 2 * STEPS) + (step >= 4 * STEPS)),
        ),
        ({"schedule": "steps"}, lambda step: PEAK),
    ],
)
def test_schedules(digits, schedule, expected):
    rates = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        recipe = Recipe(epochs=EPOCHS, batch_size=64, lr=PEAK, precision="float32", **schedule)
        history = train(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), digits, recipe)
    finally:
        handle.remove()
    assert rates == pytest.approx([expected(step) for step in range(TOTAL)], rel=1e-9)
    assert history.frame["lr"].tolist() == rates[::STEPS]


@pytest.mark.parametrize("schedule", training.SCHEDULES)
@pytest.mark.parametrize("steps", range(1, 11))
def test_schedules_of_very_short_runs(schedule, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler, rates = training.make_scheduler(optimizer, Recipe(epochs=steps, lr=PEAK, schedule=schedule), 1), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert all(0 < rate <= PEAK for rate in rates) and (steps == 1 or max(rates) > 0.7 * PEAK)


def test_the_test_split_is_never_read(digits):
    class Poison:
        def to(self, device):
            return self

        def __getattr__(self, name):
            raise AssertionError(f"fit read {name} of the test split")

        __len__ = __getitem__ = __getattr__

    poisoned, model = build(), build()
    history = train(poisoned, dataclasses.replace(digits, test=Poison()))
    assert same_history(history, train(model, digits)) and same_bits(poisoned, model)


def test_the_validation_split_is_only_watched(digits):
    other = Split(255 - digits.valid.x, (digits.valid.y + 1) % 10)
    a, b = build(), build()
    first, second = train(a, digits), train(b, dataclasses.replace(digits, valid=other))
    assert same_bits(a, b)
    assert first.last_row["valid_loss"] != second.last_row["valid_loss"]


def test_data_are_left_as_they_were(digits):
    before = digits.train.x.clone()
    train(build(), digits)
    assert torch.equal(digits.train.x, before)


# --- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [build, noisy])
def test_same_seed_same_bits_other_seed_other_bits(digits, make):
    a, b, c = make(), make(), make()
    first = train(a, digits, seed=5)
    torch.rand(7)  # the global generator is of no account
    assert same_history(first, train(b, digits, seed=5)) and same_bits(a, b)
    train(c, digits, seed=6)
    assert not same_bits(a, c)


def test_the_noise_follows_the_seed(digits):
    """Without augmentation, on one batch of all images, seeds differ by the noise alone."""
    recipe = Recipe(epochs=1, batch_size=256, lr=0.05, flip=False, crop=0, precision="float32")
    changes = {}
    for make in (build, noisy):
        a, b = make(), make()
        train(a, digits, recipe, seed=1)
        train(b, digits, recipe, seed=2)
        weights = [bl.detach_bridgeout(bl.detach_sparseout(m)).conv1.weight.detach() for m in (a, b)]
        changes[make] = float((weights[0] - weights[1]).norm() / weights[0].norm())
    assert changes[build] < 1e-5 < 1e-3 < changes[noisy]


def test_noise_is_drawn_afresh_in_every_step_and_epoch(digits):
    class Draw(nn.Module):
        def forward(self, x):
            draws.append(float(torch.rand(())))
            return x

    runs = []
    for seed in (1, 1, 2):
        draws = []
        train(nn.Sequential(Draw(), nn.Flatten(), nn.Linear(3072, 10)), digits, seed=seed)
        runs.append(draws)
    assert len(runs[0]) == 3 * (4 + 1)  # a validation batch after four training ones, three times
    assert len({*runs[0], *runs[2]}) == 30 and runs[0] == runs[1]


def test_global_generators_are_left_alone(digits):
    model = noisy()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    train(model, digits)
    assert torch.equal(torch.get_rng_state(), before)
    evaluate(model, digits)
    assert torch.equal(torch.get_rng_state(), before)
    Stop(model, ctrl_c, 0, 2)
    with pytest.raises(KeyboardInterrupt):
        train(model, digits)
    assert torch.equal(torch.get_rng_state(), before)


def test_epoch_seeds_do_not_overlap():
    seeds = [epoch_seed(seed, epoch) + k for seed in range(50) for epoch in range(50) for k in (0, 1)]
    assert len(set(seeds)) == len(seeds) and min(seeds) >= 0 and max(seeds) < 2**63


# --- stopping and going on --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(digits):
    """The noisy model after an uninterrupted run, and its history."""
    model = noisy()
    return model, train(model, digits)


def test_checkpoints_change_nothing(digits, whole, tmp_path):
    model = noisy()
    history = train(model, digits, checkpoint=tmp_path / "new" / "run.pt")
    assert same_bits(model, whole[0]) and same_history(history, whole[1])
    assert os.listdir(tmp_path / "new") == ["run.pt"]  # nothing partial


@pytest.mark.parametrize(("epoch", "step"), [(0, 2), (1, 0), (1, 3), (2, 1)])
def test_ctrl_c_keeps_the_last_whole_epoch(digits, whole, tmp_path, capsys, epoch, step):
    file = tmp_path / "run.pt"
    model = noisy()
    Stop(model, ctrl_c, epoch, step)
    with pytest.raises(KeyboardInterrupt):
        train(model, digits, checkpoint=file)
    said = capsys.readouterr().err
    assert said == f"interrupted in epoch {epoch + 1} of 3: run the same call again to go on from epoch {epoch + 1}\n"
    assert len(torch.load(file, weights_only=True)["rows"]) == epoch and os.listdir(tmp_path) == ["run.pt"]
    again = noisy(seed=99)  # the checkpoint brings the weights
    history = train(again, digits, checkpoint=file)
    assert same_bits(again, whole[0]) and same_history(history, whole[1])


def test_ctrl_c_without_checkpoint_says_so(digits, capsys):
    model = build()
    Stop(model, ctrl_c, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        train(model, digits)
    assert capsys.readouterr().err == "interrupted in epoch 2 of 3: no checkpoint was asked for\n"


@pytest.mark.parametrize("moment", ["save", "replace"])
def test_ctrl_c_while_the_checkpoint_is_written(digits, whole, tmp_path, capsys, monkeypatch, moment):
    file, real, calls = tmp_path / "run.pt", torch.save, []

    def save(state, path):
        calls.append(path)
        real(state, path)
        if moment == "save" and len(calls) == 3:
            raise KeyboardInterrupt

    def replace(source, target, real=os.replace):
        if moment == "replace" and len(calls) == 3:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            train(noisy(), digits, checkpoint=file)
    assert "go on from epoch 2" in capsys.readouterr().err and os.listdir(tmp_path) == ["run.pt"]
    model = noisy()
    assert same_history(train(model, digits, checkpoint=file), whole[1]) and same_bits(model, whole[0])


@pytest.mark.parametrize("schedule", training.SCHEDULES)
def test_every_schedule_goes_on_where_it_was(digits, tmp_path, schedule):
    recipe = dataclasses.replace(QUICK, schedule=schedule, milestones=(1, 2))
    straight, stopped = build(), build()
    history = train(straight, digits, recipe)
    Stop(stopped, ctrl_c, 1, 2)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, digits, recipe, checkpoint=tmp_path / "run.pt")
    again = train(stopped, digits, recipe, checkpoint=tmp_path / "run.pt")
    assert same_bits(straight, stopped) and same_history(history, again)


def test_a_finished_run_gives_its_stored_history(digits, tmp_path):
    model, again = noisy(), noisy(seed=1)
    history = train(model, digits, checkpoint=tmp_path / "run.pt")
    Stop(again, ctrl_c, 0, 0)  # training again would stop here
    stored = train(again, digits, checkpoint=tmp_path / "run.pt")
    assert stored.frame.equals(history.frame)  # the timings too
    assert same_bits(model, again)


CHILD = """
    import sys, time, torch
    torch.set_num_threads(1)
    sys.path[:0] = {tests!r}
    import bridgeout_lite as bl
    from test_training import QUICK, Stop, noisy, train

    def wait():
        print("in the middle of epoch 2", flush=True)
        time.sleep(600)

    model = noisy()
    Stop(model, wait, 1, 2)
    train(model, bl.load_images("digits", train=256, valid=64, test=64), checkpoint=sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_kill_9_in_the_middle_of_epoch_2(digits, whole, tmp_path):
    file, code = (
        tmp_path / "run.pt",
        textwrap.dedent(CHILD).format(tests=[str(folder) for folder in Path(__file__).parents[:2]]),
    )
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "in the middle of epoch 2\n"
        finally:
            os.kill(child.pid, signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    assert len(torch.load(file, weights_only=True)["rows"]) == 1
    model = noisy()
    history = train(model, digits, checkpoint=file)
    assert same_bits(model, whole[0]) and same_history(history, whole[1])


# --- checkpoints that do not fit, cannot be read or cannot be written -------------------------------------------------


@pytest.fixture
def checkpoint(digits, tmp_path):
    """A checkpoint of one recipe, and its bytes."""
    file = tmp_path / "run.pt"
    train(build(), digits, dataclasses.replace(QUICK, epochs=1), checkpoint=file)
    return file, file.read_bytes()


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("model", {"model": lambda: build(width=0.5)}),
        ("model", {"model": lambda: build(sparseout=(0.2, 1.5))}),
        ("recipe", {"recipe": {"lr": 0.06}}),
        ("recipe", {"recipe": {"epochs": 2}}),
        ("recipe", {"recipe": {"precision": "bfloat16"}}),
        ("seed", {"seed": 1}),
        ("data", {"data": {"seed": 1}}),
    ],
)
def test_a_checkpoint_of_another_run(checkpoint, digits, what, change):
    file, content = checkpoint
    model = change.get("model", build)()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = bl.load_images("digits", train=256, valid=64, test=64, **change["data"]) if "data" in change else digits
    recipe = dataclasses.replace(QUICK, **{"epochs": 1} | change.get("recipe", {}))
    with pytest.raises(CheckpointError) as error:
        train(model, images, recipe, seed=change.get("seed", 0), checkpoint=file)
    message = one_line(error)
    assert f"{file} belongs to another run (another {what})" in message and "name another file or delete it" in message
    assert file.read_bytes() == content and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_noise_is_part_of_the_model(digits, tmp_path):
    for sparseout, bridgeout in [((0.2, 1.5), None), ((0.2, 2.0), None), (None, (0.2, 1.5)), (None, (0.1, 1.5))]:
        model = build(sparseout=sparseout, bridgeout=bridgeout)
        if (tmp_path / "run.pt").exists():
            with pytest.raises(CheckpointError, match="another model"):
                train(model, digits, checkpoint=tmp_path / "run.pt")
            (tmp_path / "run.pt").unlink()
        train(model, digits, dataclasses.replace(QUICK, epochs=1), checkpoint=tmp_path / "run.pt")


def test_noise_on_a_block_is_part_of_the_model(digits):
    def identity(p):
        model = nn.Sequential(nn.Sequential(nn.Flatten()))
        bl.attach_sparseout(model, p, 1.0, where=lambda name, module: name == "0")
        return identify(model, digits, QUICK, 0, "float32")["model"]

    assert identity(0.1) == identity(0.1) != identity(0.2)


def test_all_differences_are_named(checkpoint, digits):
    with pytest.raises(CheckpointError, match=r"\(another model, another recipe, another seed\)"):
        train(build(width=0.5), digits, seed=9, checkpoint=checkpoint[0])


class Armed:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


GARBAGE = {
    "empty": lambda path, whole: path.write_bytes(b""),
    "text": lambda path, whole: path.write_text("epoch 3 went well\n"),
    "noise": lambda path, whole: path.write_bytes(bytes(range(256)) * 100),
    "cut": lambda path, whole: path.write_bytes(whole[: len(whole) // 2]),
    "wiped": lambda path, whole: path.write_bytes(bytes(len(whole))),
    "pickle": lambda path, whole: path.write_bytes(pickle.dumps(Armed(path.parent / "owned"), protocol=2)),
    "armed": lambda path, whole: torch.save({"identity": Armed(path.parent / "owned")}, path),
    "list": lambda path, whole: torch.save([1, 2, 3], path),
    "tensor": lambda path, whole: torch.save(torch.rand(3), path),
    "number": lambda path, whole: torch.save({"identity": 3}, path),
    "weights": lambda path, whole: torch.save(build().state_dict(), path),
    "model": lambda path, whole: torch.save(build(), path),
    "folder": lambda path, whole: path.mkdir(),
}


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_file_that_is_no_checkpoint(checkpoint, digits, tmp_path, kind):
    file = tmp_path / "garbage.pt"
    GARBAGE[kind](file, checkpoint[1])
    before = None if file.is_dir() else file.read_bytes()
    with pytest.raises(CheckpointError) as error:
        train(build(), digits, checkpoint=file)
    assert f"{file} is not a readable checkpoint of fit()" in one_line(error)
    assert "name another file or delete it" in one_line(error)
    assert not (tmp_path / "owned").exists()  # nothing in it was run
    assert file.is_dir() if before is None else file.read_bytes() == before


def test_a_full_disk_costs_at_most_the_epoch(digits, whole, tmp_path, monkeypatch):
    file, real, calls = tmp_path / "run.pt", torch.save, []

    def full(state, path):
        calls.append(path)
        if len(calls) == 3:  # before the start, after epoch 1, after epoch 2
            path.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(state, path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(CheckpointError) as error:
            train(noisy(), digits, checkpoint=file)
    message = one_line(error)
    assert f"checkpoint {file} could not be written" in message and "No space left" in message
    assert "free space or name another file" in message and "unharmed" in message
    assert os.listdir(tmp_path) == ["run.pt"] and len(torch.load(file, weights_only=True)["rows"]) == 1
    model = noisy()
    assert same_history(train(model, digits, checkpoint=file), whole[1]) and same_bits(model, whole[0])


def test_torchs_own_writer_running_out_of_space(digits, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CheckpointError) as error:
            train(build(), digits, checkpoint=tmp_path / "run.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "could not be written" in one_line(error) and os.listdir(tmp_path) == []


def test_an_unwritable_checkpoint_is_found_out_before_training(digits, tmp_path, monkeypatch):
    model = build()
    Stop(model, lambda: pytest.fail("training started"), 0, 0)
    (tmp_path / "file").write_text("precious")
    for place in ("file/run.pt", "file/below/run.pt"):
        with pytest.raises(CheckpointError, match="could not be written"):
            train(model, digits, checkpoint=tmp_path / place)

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(CheckpointError, match="Permission denied") as error:
        train(model, digits, checkpoint=tmp_path / "run.pt")
    assert "name another file" in one_line(error)
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "precious"


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knob, bad, says",
    [
        *[("schedule", bad, choice) for bad in ("linear", "?") for choice in training.SCHEDULES],
        *[("precision", bad, choice) for bad in ("float16", "?") for choice in training.PRECISIONS],
        *[("flip", bad, "True, False or 'alternating'") for bad in (2, "always", None)],
        *[(name, bad, "whole number >= 1") for name in ("epochs", "batch_size") for bad in (0, 2.5, True, None)],
        ("crop", -1, "whole number >= 0"),
        *[(name, bad, "finite number > 0") for name in ("lr", "bias_lr") for bad in (0, -1, math.nan, math.inf)],
        *[("clip", bad, "finite number > 0") for bad in (0, -1.0)],
        *[("weight_decay", bad, "finite number >= 0") for bad in (-1e-4, math.nan)],
        ("gamma", -0.1, "finite number >= 0"),
        *[("momentum", bad, "0 <= momentum < 1") for bad in (1.0, -0.1)],
        *[("label_smoothing", bad, "0 <= label_smoothing < 1") for bad in (1.0, -0.1)],
        *[("milestones", (bad,), "each of milestones must be a whole number >= 1") for bad in (0.5, 0)],
    ],
)
def test_recipes_that_make_no_sense(knob, bad, says):
    shown = bad[0] if knob == "milestones" else bad
    refused(lambda: Recipe(**{knob: bad}), f"{knob} must be", says, f"got {shown!r}")


def test_recipes_are_values():
    assert Recipe(schedule="steps", milestones=[1, 2]) == Recipe(schedule="steps", milestones=(1, 2))
    whole = Recipe(lr=1, momentum=0, weight_decay=0, gamma=1, clip=1)
    assert repr(whole) == repr(Recipe(lr=1.0, momentum=0.0, weight_decay=0.0, gamma=1.0, clip=1.0))
    assert len({Recipe(milestones=[1]), Recipe(milestones=(1,)), Recipe()}) == 2


def test_too_few_images(digits):
    with pytest.raises(ValueError) as error:
        train(build(), digits, Recipe(batch_size=257))
    assert "256 training images are fewer than one batch of 257" in one_line(error)
    assert "lower batch_size" in one_line(error)


def test_no_validation_images_is_found_out_before_training():
    model = build()
    Stop(model, lambda: pytest.fail("training started"), 0, 0)
    with pytest.raises(ValueError, match="validation split of digits is empty: load it with valid >= 1"):
        train(model, bl.load_images("digits", train=256, valid=0))


@pytest.mark.parametrize("device", ["banana", "cuda:99", "", 2.5])
def test_unknown_devices(digits, device):
    for call in (lambda: pick_device(device), lambda: train(build(), digits, device=device)):
        with pytest.raises(ValueError) as error:
            call()
        assert one_line(error) == f"device {device!r} is not available here: use 'auto', 'cpu', 'cuda' or 'mps'"


def test_a_loss_that_is_not_finite(digits, tmp_path):
    model = build()
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError) as error:
        train(model, digits, checkpoint=tmp_path / "run.pt")
    assert "the training loss is nan and the validation loss nan in epoch 1" in one_line(error)
    assert all(word in one_line(error) for word in ("lower lr", "0.05", "clip"))
    assert torch.load(tmp_path / "run.pt", weights_only=True)["rows"] == []  # what is broken is not kept


def test_a_last_step_that_throws_the_weights_off(digits):
    recipe = Recipe(epochs=1, batch_size=256, lr=1e36, precision="float32")  # the loss before this one step is fine
    with pytest.raises(FloatingPointError, match=r"the training loss is 2\.\d+ and the validation loss (nan|inf)"):
        train(build(), digits, recipe)


# --- device, precision, progress --------------------------------------------------------------------------------------


def test_devices():
    assert pick_device("cpu") == torch.device("cpu") == pick_device(torch.device("cpu"))
    assert pick_device().type in ("cpu", "cuda", "mps")


def test_auto_device_prefers_what_is_fast(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device() == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device() == torch.device("mps")


def test_precision_choices(digits, monkeypatch):
    cpu = torch.device("cpu")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert pick_precision("auto", cpu) == "float32" == pick_precision("auto", torch.device("mps"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert pick_precision("auto", cpu) == "bfloat16"
    assert pick_precision("float32", cpu) == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert pick_precision("auto", torch.device("cuda")) == "float32"  # emulated is slow


def test_bfloat16_trains_and_keeps_float32_weights(digits):
    dtypes = set()
    model = noisy()
    model.conv2.register_forward_hook(lambda m, a, out: dtypes.add(out.dtype))
    history = train(model, digits, dataclasses.replace(QUICK, precision="bfloat16"))
    assert dtypes == {torch.bfloat16} and history.precision == "bfloat16"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert history.frame["train_loss"].iloc[-1] < history.frame["train_loss"].iloc[0]


def test_progress_bar(digits, capsys, monkeypatch):
    recipe = dataclasses.replace(QUICK, epochs=1)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    train(build(), digits, recipe, progress=True)
    shown = capsys.readouterr()
    assert "batch/s" in shown.err and shown.out == "" and "%" in shown.err
    train(build(), digits, recipe, progress=False)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    train(build(), digits, recipe, progress=True)
    assert capsys.readouterr() == ("", "")


# --- speed ------------------------------------------------------------------------------------------------------------


class WaitsForADevice(TorchDispatchMode):
    """Counts the operations for which a GPU would be waited for: a value read back, a shape that depends on values,
    numbers sent from Python."""

    NAMES = ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "lift_fresh", "_unique2")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(i is not None and i.dtype == torch.bool for i in args[1])
        if name in self.NAMES or by_mask:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("schedule, clip", [*((schedule, None) for schedule in training.SCHEDULES), ("onecycle", 1.0)])
def test_no_step_waits_for_the_device(digits, schedule, clip):
    seen, few = [], Split(digits.train.x[:64], digits.train.y[:64])
    digits = dataclasses.replace(digits, train=few, valid=few)
    for batch_size in (32, 8):  # 2 and 8 steps
        recipe = Recipe(epochs=2, batch_size=batch_size, schedule=schedule, clip=clip, precision="bfloat16")
        with WaitsForADevice() as waits:
            train(build(), digits, recipe)
        seen.append(waits.seen)
    assert seen[0] == seen[1] and {"item", "lift_fresh"} <= set(seen[0])  # what there is comes once an epoch


def test_cudnn_stays_switched_on(digits):
    flags, model = set(), build()
    cudnn = torch.backends.cudnn
    model.register_forward_hook(lambda *_: flags.add((cudnn.enabled, cudnn.deterministic, cudnn.benchmark)))
    before = cudnn.deterministic
    train(model, digits)
    assert flags == {(True, True, False)} and cudnn.deterministic is before


class FakeGraph:
    """A CUDA graph as far as a CPU can play one: recording does not run anything, replaying does."""

    last = None

    def __init__(self):
        FakeGraph.last, self.recorded = self, []

    def __enter__(self):
        Summing.recording = self

    def __exit__(self, *_):
        Summing.recording = None

    def replay(self):
        for run in self.recorded:
            run()


class Summing:
    """Work on places in memory, for :class:`FakeGraph`."""

    recording = None

    def __init__(self):
        self.out, self.shown = torch.zeros(1), []

    def __call__(self, x, y):
        def run():
            self.shown.append((x.tolist(), y.tolist()))
            self.out.copy_(x.sum() + y.sum())

        if self.recording is not None:
            self.recording.recorded.append(run)
        else:
            run()
        return self.out


def test_replay_shows_every_batch_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    aside = type("Stream", (), {"__init__": lambda *_: None, "wait_stream": lambda *_: None})
    monkeypatch.setattr(torch.cuda, "Stream", aside)
    monkeypatch.setattr(torch.cuda, "current_stream", aside)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    work = Summing()
    replay = Replay(work)
    batches = [(torch.full((2,), k), torch.full((2,), 10 * k)) for k in range(Replay.WARM + 4)]
    sums = [float(replay(x, y)) for x, y in batches]
    assert sums == [22.0 * k for k in range(Replay.WARM + 4)]
    assert work.shown == [(x.tolist(), y.tolist()) for x, y in batches]
    assert len(FakeGraph.last.recorded) == 1  # recorded once, replayed from then on
    assert batches[Replay.WARM][0].tolist() == [Replay.WARM] * 2  # the caller's own tensors are left alone

    def unfit(x, y):
        if Summing.recording is not None:
            raise RuntimeError("not permitted when stream is capturing\nand so on")

    replay = Replay(unfit)
    with pytest.raises(RuntimeError) as error:
        for x, y in batches:
            replay(x, y)
    message = "the step cannot be recorded as a CUDA graph (not permitted when stream is capturing): leave graph out"
    assert one_line(error) == message


def test_a_graph_needs_cuda(digits, tmp_path):
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        train(model, digits, graph=True, checkpoint=tmp_path / "run.pt")
    assert one_line(error) == "graph=True needs a CUDA device, got 'cpu': leave graph out"
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and os.listdir(tmp_path) == []


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize("make", [build, noisy])
def test_on_cuda_a_graph_gives_the_same_bits_and_resumes(digits, tmp_path, make):
    options = {"recipe": dataclasses.replace(QUICK, batch_size=16, precision="bfloat16"), "device": "cuda"}
    models = [make() for _ in range(3)]
    plain = train(models[0], digits, **options)
    graph = train(models[1], digits, graph=True, **options)
    assert same_history(plain, graph) and same_bits(models[0], models[1])
    Stop(models[2], ctrl_c, epoch=0, step=Replay.WARM)  # while it is recorded: later the hook is not called
    with pytest.raises(KeyboardInterrupt):
        train(models[2], digits, graph=True, checkpoint=tmp_path / "run.pt", **options)
    resumed = make()
    again = train(resumed, digits, graph=True, checkpoint=tmp_path / "run.pt", **options)
    assert same_history(again, graph) and same_bits(resumed, models[1])


@needs_cuda
@pytest.mark.parametrize("make", [build, noisy])
def test_on_cuda_no_step_waits(digits, make):
    model = make()

    def forbid(kind):
        torch.cuda.set_sync_debug_mode(kind)

    Stop(model, lambda: forbid("error"), epoch=1, step=0)
    Stop(model, lambda: forbid("default"), epoch=1, step=3)
    try:
        train(model, digits, device="cuda")
    finally:
        forbid("default")


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_augmentation_is_torchvisions_crop_and_flip():
    """Every output is one of torchvision's windows of the padded original, all about equally often, half mirrored."""
    from bridgeout_lite.tv_compat import import_torchvision

    import_torchvision()
    from torchvision.transforms import functional as tv

    n, crop = 4000, 2
    x = torch.randint(1, 256, (n, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    out = augment(x, True, crop, torch.Generator().manual_seed(1))
    assert out.shape == x.shape and out.dtype == torch.uint8
    padded = tv.pad(x, crop)
    matches = []
    for top in range(2 * crop + 1):
        for left in range(2 * crop + 1):
            window = tv.crop(padded, top, left, 6, 5)
            for candidate in (window, tv.hflip(window)):
                matches.append((out == candidate).flatten(1).all(1))
    matches = torch.stack(matches, 1)  # image x (shift, mirrored)
    assert torch.equal(matches.sum(1), torch.ones(n).long())  # exactly one each
    # two-sided bounds that a right implementation breaks with probability < 1e-6
    mirrored = int(matches[:, 1::2].sum())
    assert stats.binom.ppf(4e-7, n, 0.5) <= mirrored <= stats.binom.isf(4e-7, n, 0.5)
    shifts = matches.view(n, -1, 2).sum((0, 2)).numpy()
    assert stats.chisquare(shifts).pvalue > 1e-6


def test_augmentation_switched_off_is_the_identity():
    x = torch.randint(0, 256, (10, 3, 32, 32), dtype=torch.uint8)
    assert augment(x, flip=False, crop=0) is x


def test_augmentation_follows_its_generator_and_leaves_its_input():
    x = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    before, state = x.clone(), torch.get_rng_state()
    first, again, other = (augment(x, True, 4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)


def test_flip_alone_and_crop_alone():
    x = torch.randint(1, 256, (64, 3, 8, 8), dtype=torch.uint8)
    flipped = augment(x, True, 0, torch.Generator().manual_seed(0))
    as_is, mirrored = ((flipped == y).flatten(1).all(1) for y in (x, x.flip(3)))
    assert (as_is ^ mirrored).all() and 0 < mirrored.sum() < 64  # all alike: probability 1e-19
    cropped = augment(x, False, 3, torch.Generator().manual_seed(0))
    assert (cropped == 0).any() and not torch.equal(cropped, x)


def test_normalizer_against_the_formula_to_the_bit(digits):
    normalize, before = digits.normalizer("cpu"), digits.train.x.clone()
    mean, std = (torch.tensor(moment).view(1, -1, 1, 1) for moment in (digits.mean, digits.std))
    for x in (digits.train.x[:7], digits.train.x[:7, :, 3:, 5:], digits.train.x[:1].to(torch.float32)):
        for layout in (torch.contiguous_format, torch.channels_last):
            out, expected = normalize(x.contiguous(memory_format=layout)), (x.to(torch.float32) - mean) / std
            assert torch.equal(out, expected) and out.dtype == torch.float32 and torch.equal(digits.normalize(x), out)
            assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(digits.train.x, before)


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("batch_size", [500, 60, 7])
def test_evaluate_against_a_plain_loop(digits, whole, split, batch_size):
    model, part = whole[0], getattr(digits, split)
    loss, hits = 0.0, 0
    model.eval()
    mean, std = (torch.tensor(t).view(3, 1, 1) for t in (digits.mean, digits.std))
    with torch.no_grad():
        for image, label in zip(part.x, part.y, strict=True):
            scores = model(((image - mean) / std)[None])[0].double()
            loss += float(torch.logsumexp(scores, 0) - scores[label])
            hits += int(scores.argmax() == label)
    model.train()
    got_loss, got_accuracy = evaluate(model, digits, split, batch_size=batch_size)
    assert got_loss == pytest.approx(loss / len(part), rel=1e-4)
    assert got_accuracy == pytest.approx(100 * hits / len(part), abs=100 / len(part) + 1e-9)  # one near tie, at most


@pytest.mark.parametrize("mode", [True, False])
def test_evaluate_has_no_noise_and_changes_nothing(digits, mode):
    model = noisy().train(mode)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert evaluate(model, digits) == evaluate(model, digits)
    assert model.training is mode and all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_evaluate_bad_split(digits):
    with pytest.raises(ValueError, match=r"split.*train.*valid.*test"):
        evaluate(build(), digits, "validation")
    empty = dataclasses.replace(digits, valid=Split(digits.valid.x[:0], digits.valid.y[:0]))
    with pytest.raises(ValueError, match="the valid split of digits is empty"):
        evaluate(build(), empty, "valid")


# --- experiments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ArenaExperiment, FlowExperiment, EvolutionExperiment])
@pytest.mark.parametrize(
    "bad, says",
    [
        ({"width": 0}, "width must be a finite number > 0, got 0"),
        ({"width": "wide"}, "width must be a finite number > 0, got 'wide'"),
        ({"width": math.nan}, "width must be a finite number > 0, got nan"),
        ({"seed": -1}, "seed must be a whole number >= 0, got -1"),
        ({"seed": 0.5}, "seed must be a whole number >= 0, got 0.5"),
        ({"seed": None}, "seed must be a whole number >= 0, got None"),
        ({"train": 20}, r"train must be a whole number >= \d+, got 20"),
        ({"train": 1e4}, r"train must be a whole number >= \d+, got 10000.0"),
        ({"valid": 0}, "valid must be a whole number >= 1, got 0"),
        ({"valid": None}, "valid must be a whole number >= 1, got None"),
        ({"test": 0}, "test must be a whole number >= 1, got 0"),
        ({"recipe": None}, "recipe must be a Recipe, got None"),
        ({"model": "vgg12"}, "model must be one of"),
        ({"dataset": "auto"}, "dataset must be one of"),
    ],
)
def test_experiments_that_cannot_run_are_refused(make, bad, says):
    with pytest.raises(ValueError, match=says) as error:
        make(**bad)
    assert "\n" not in str(error.value)


def test_looking_at_an_experiment_draws_nothing():
    before = torch.random.get_rng_state()
    assert ArenaExperiment(width=0.3125, train=None, test=None).width == 0.3125
    assert torch.equal(torch.random.get_rng_state(), before)


# --- the fast recipe's knobs ------------------------------------------------------------------------------------------


def test_alternating_flips_mirror_each_image_every_other_epoch():
    first, second, third = (training._turned(1000, epoch, seed=3) for epoch in range(3))
    assert torch.equal(first, ~second) and torch.equal(first, third) and 400 < first.sum() < 600
    assert not torch.equal(first, training._turned(1000, 0, seed=4))
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    out = augment(x, torch.tensor([True, False]), 0)
    assert torch.equal(out[0], x[0].flip(2)) and torch.equal(out[1], x[1])


def test_label_smoothing_is_that_of_torch(digits):
    model, x, y = build(), digits.normalize(digits.train.x[:32]), digits.train.y[:32]
    recipe = dataclasses.replace(QUICK, label_smoothing=0.2)
    loss = training._learn(model, recipe, "float32", None, x, y)[0]
    assert loss.item() == pytest.approx(F.cross_entropy(model(x), y, label_smoothing=0.2).item(), rel=1e-5)


def test_biases_have_a_learning_rate_and_the_same_decay():
    model = build()
    groups = training._groups(model, dataclasses.replace(QUICK, bias_lr=4.0))
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(p.dim() == 1 for p in groups[1]["params"]) and len(groups[1]["params"]) > 3
    assert groups[1]["lr"] == 4 * QUICK.lr
    assert groups[1]["lr"] * groups[1]["weight_decay"] == pytest.approx(QUICK.lr * QUICK.weight_decay)
    noisy = bl.attach_bridgeout(nn.Sequential(nn.Conv2d(3, 4, 3)), 0.3, 1.0)  # holds its biases under another name
    groups = training._groups(noisy, dataclasses.replace(QUICK, bias_lr=4.0))
    assert [[p.shape for p in group["params"]] for group in groups] == [[(4, 3, 3, 3)], [(4,)]]


def test_views_at_test_time_are_means_of_answers(digits):
    few = dataclasses.replace(digits, test=Split(digits.test.x[:20], digits.test.y[:20]))
    model = build().eval()
    x = few.normalize(few.test.x)
    with torch.no_grad():
        both = (model(x) + model(x.flip(3))) / 2
        wide = F.pad(x, (1, 1, 1, 1), mode="reflect")
        corners = [(model(v) + model(v.flip(3))) / 2 for v in (wide[:, :, :32, :32], wide[:, :, 2:, 2:])]
    for views, logits in (("flip", both), ("shift", both / 2 + (corners[0] + corners[1]) / 4)):
        loss, accuracy = evaluate(model, few, "test", views=views)
        assert loss == pytest.approx(F.cross_entropy(logits, few.test.y).item(), rel=1e-5)
        assert accuracy == pytest.approx(100 * (logits.argmax(1) == few.test.y).float().mean().item())
    with pytest.raises(ValueError, match="views"):
        evaluate(model, few, "test", views="many")


def test_what_is_watched_stands_in_the_history_and_changes_nothing(digits):
    def watch(model):
        assert not model.training
        torch.rand(3)  # even if it draws
        return {"norm": model.conv1.weight.norm().item()}

    plain, watched = build(sparseout=(0.2, 1.0)), build(sparseout=(0.2, 1.0))
    first = train(plain, digits)
    second = train(watched, digits, watch=watch)
    assert same_bits(plain, watched) and list(second.frame["norm"].diff()[1:]) != [0.0, 0.0]
    assert same_history(first, bl.History(second.frame.drop(columns="norm"), second.precision, second.device))


@pytest.mark.parametrize("wrong", [{"flip": "often"}, {"label_smoothing": 1.0}, {"bias_lr": 0.0}])
def test_later_knobs_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)
