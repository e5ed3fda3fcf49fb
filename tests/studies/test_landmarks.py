"""Drawn faces: the picture shows the landmarks, the space of shapes has its dimension, draws repeat."""

import dataclasses
import math

import pytest
import torch

from bridgeout_lite.studies.structured_output import faces as landmarks
from bridgeout_lite.studies.structured_output.faces import Pairs, face, load_pairs, pixel_centres, render, shapes


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


def one_line(error):
    message = str(error.value)
    assert "\n" not in message and len(message) < 320
    return message


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_a_line_is_drawn_where_it_is():
    line = torch.tensor([[[[-0.5, 0.25], [0.5, 0.25]]]])
    image = render(line, 24)[0].flatten()
    grid = pixel_centres(24)
    across, along = (grid[:, 1] - 0.25).abs(), (grid[:, 0].abs() - 0.5).clamp_min(0)
    expected = (-(across.square() + along.square()) / (2 * 0.07**2)).exp()
    torch.testing.assert_close(image, expected)


def test_a_point_is_a_line_of_no_length():
    image = render(torch.zeros(1, 1, 2, 2), 25)[0]
    assert image[12, 12] == 1 and image.argmax() == 12 * 25 + 12


def test_x_goes_right_and_y_down():
    image = render(torch.tensor([[[[0.7, -0.7], [0.7, -0.7]]]]), 20)[0]
    row, column = divmod(int(image.argmax()), 20)
    assert row < 4 and column > 15


def test_the_picture_is_bright_on_the_drawn_landmarks_and_dark_away_from_the_face():
    drawn = shapes(50, size=64, occlusion=0.0, clutter=0, noise=0.0, generator=draws())
    at = ((drawn.landmarks + 1) * 32).long().clamp(0, 63)
    inside = (drawn.landmarks.abs() < 1).all(-1)
    values = drawn.images[torch.arange(50)[:, None], at[..., 1], at[..., 0]]
    assert values[inside].min() > 0.9, "a pixel that holds a landmark lies on its stroke"
    far = (pixel_centres(64)[None, :, None] - drawn.landmarks[:, None]).norm(dim=-1).amin(-1) > 0.45
    assert drawn.images.flatten(1)[far].max() < 0.05


def test_a_similarity_moves_the_whole_shape():
    model, zero = face(), torch.zeros(1, 4)
    placed = model.place(zero, torch.tensor([2.0]), torch.tensor([math.pi / 2]), torch.tensor([[0.1, -0.2]]))[0]
    x, y = model.mean.T
    torch.testing.assert_close(placed, torch.stack([-2 * y + 0.1, 2 * x - 0.2], 1))


def test_a_mode_moves_landmarks_by_its_coefficient():
    model = face()
    for k in range(4):
        b = torch.zeros(1, 4)
        b[0, k] = 0.5
        moved = model.place(b, torch.ones(1), torch.zeros(1), torch.zeros(1, 2))[0]
        torch.testing.assert_close(moved, model.mean + 0.5 * model.modes[k])


@pytest.mark.parametrize("points", [14, 20, 68])
def test_the_dimensions_are_those_that_the_formula_says(points):
    """K = 4 of the deformation, 2K + 4 = 12 of everything, found by singular values of many shapes."""
    model = face(points)
    assert model.mean.shape == (points, 2) and model.dimension == 12
    drawn = shapes(300, points=points, generator=draws())
    own = model.place(drawn.coefficients, torch.ones(300), torch.zeros(300), torch.zeros(300, 2))
    for points_of, dimension in ((own, 4), (drawn.landmarks, 12)):
        flat = points_of.flatten(1).double()
        values = torch.linalg.svdvals(flat - flat.mean(0))
        assert values[dimension - 1] > 0.1 and values[dimension] < 1e-4
    basis = model.basis()
    flat = drawn.landmarks.flatten(1).double()
    assert (flat - flat @ basis @ basis.T).abs().max() < 1e-5
    torch.testing.assert_close(basis.T @ basis, torch.eye(12, dtype=torch.float64))


def test_eyes_are_the_two_outer_corners():
    model = face()
    left, right = model.mean[list(model.eyes)]
    assert left[0] == -right[0] and left[1] == right[1]
    assert left[0] == model.mean[10:, 0].min()


# --- draws ------------------------------------------------------------------------------------------------------------


def test_draws_repeat_by_their_generator_and_leave_the_global_one_alone():
    state = torch.random.get_rng_state()
    a, b, c = (shapes(20, generator=draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.images, b.images) and torch.equal(a.landmarks, b.landmarks)
    assert not torch.equal(a.landmarks, c.landmarks)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(0)
    d = shapes(20)
    torch.manual_seed(0)
    assert torch.equal(d.images, shapes(20).images)


def test_pictures_are_spoilt_as_asked():
    clean = shapes(200, occlusion=0.0, clutter=0, noise=0.0, generator=draws())
    assert clean.images.shape == (200, 24, 24) and clean.images.min() >= 0 and clean.images.max() <= 1
    hidden = shapes(200, occlusion=1.0, clutter=0, noise=0.0, generator=draws())
    assert torch.equal(clean.landmarks, hidden.landmarks)
    grey = (hidden.images == 0.5).flatten(1).float().mean(1)
    assert grey.min() > 0.01 and grey.max() < 0.25, "20 to 40 % of each side, some of it outside the picture"
    assert not (clean.images == 0.5).any()
    noisy = shapes(200, occlusion=0.0, clutter=0, noise=0.1, generator=draws())
    middle = (clean.images > 0.4) & (clean.images < 0.6)  # far from where values are cut
    assert abs((noisy.images - clean.images)[middle].std() - 0.1) < 0.01


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"n": 0}, "n must be"),
        ({"size": 4}, "size must be"),
        ({"points": 10}, "points must be"),
        ({"clutter": -1}, "clutter must be"),
        ({"occlusion": 1.5}, "occlusion must be"),
        ({"noise": -0.1}, "noise must be"),
        ({"noise": math.nan}, "noise must be"),
    ],
)
def test_bad_arguments_are_named(options, word):
    with pytest.raises(ValueError) as error:
        shapes(**({"n": 2} | options))
    assert word in one_line(error)


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_pool(monkeypatch):
    monkeypatch.setattr(landmarks, "POOL", {"train": 60, "valid": 10, "test": 10})
    landmarks._pool.cache_clear()
    yield
    landmarks._pool.cache_clear()


def rows(x):
    return {tuple(row.tolist()) for row in x}


def test_labelled_and_unlabelled_data_come_from_different_images(small_pool):
    pairs = load_pairs("shapes", 10, 20, seed=3)
    assert pairs.x.shape == (10, 256) and pairs.y.shape == (10, 40)
    assert pairs.more_x.shape == (20, 256) and pairs.more_y.shape == (20, 40)
    assert not rows(pairs.x) & rows(pairs.more_x) and not rows(pairs.y) & rows(pairs.more_y)
    everything = landmarks._pool("shapes").x
    place = {tuple(row.tolist()): k for k, row in enumerate(everything)}
    answers = {tuple(row.tolist()): k for k, row in enumerate(landmarks._pool("shapes").y)}
    assert not {place[r] for r in rows(pairs.more_x)} & {answers[r] for r in rows(pairs.more_y)}
    assert [place[tuple(r.tolist())] for r in pairs.x] == [answers[tuple(r.tolist())] for r in pairs.y]


def test_a_task_repeats_by_its_seed(small_pool):
    a, b, c = (load_pairs("shapes", 10, 5, seed=seed) for seed in (0, 0, 1))
    assert a.checksum == b.checksum != c.checksum
    assert torch.equal(a.test_x, c.test_x) and torch.equal(a.valid_y, c.valid_y)
    assert torch.equal(a.x, load_pairs("shapes", 10, 0, seed=0).x), "unlabelled data change nothing of the labelled"


def test_halves_of_digits_belong_together():
    pairs = load_pairs("digit-halves", 50, 100)
    from sklearn.datasets import load_digits

    whole = rows(torch.from_numpy(load_digits().images).float().flatten(1) / 16)
    for part in ("", "valid_", "test_"):
        x, y = getattr(pairs, part + "x"), getattr(pairs, part + "y")
        assert x.shape[1] == y.shape[1] == 32
        assert rows(torch.cat([x, y], 1)) <= whole
    assert not rows(torch.cat([pairs.more_x, pairs.more_y], 1)) & whole
    assert not rows(torch.cat([pairs.test_x, pairs.test_y], 1)) & rows(torch.cat([pairs.valid_x, pairs.valid_y], 1))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("faces", 10), "name must be one of 'shapes', 'digit-halves'"),
        (("shapes", 0), "labels must be"),
        (("shapes", 10, -1), "unlabelled must be"),
        (("shapes", 50, 20), "60 training images"),
    ],
)
def test_a_task_that_is_not_there_is_refused(small_pool, arguments, word):
    with pytest.raises(ValueError) as error:
        load_pairs(*arguments)
    assert word in one_line(error)


def test_unlabelled_data_of_another_shape_are_refused(small_pool):
    pairs = load_pairs("shapes", 10, 5)
    with pytest.raises(ValueError) as error:
        dataclasses.replace(pairs, more_x=torch.zeros(7, 1024))
    message = one_line(error)
    assert (
        "unlabelled inputs have shape (7, 1024)" in message and "(10, 256)" in message and "leave them out" in message
    )
    with pytest.raises(ValueError) as error:
        dataclasses.replace(pairs, more_y=torch.zeros(7, 136))
    message = one_line(error)
    assert "unlabelled answers have shape (7, 136)" in message and "(10, 40)" in message and "leave them out" in message
    with pytest.raises(ValueError, match="one row per pair"):
        dataclasses.replace(pairs, valid_y=pairs.valid_y[:3])
    assert isinstance(dataclasses.replace(pairs, more_x=torch.zeros(0, 256)), Pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"valid_x": torch.zeros(3, 5)},
            "have rows of 5 and 2 numbers but those to train on 4 and 2",
        ),
        ({"test_y": torch.zeros(3, 3)}, "test_x and test_y have rows of 4 and 3 numbers"),
        ({"x": torch.zeros(0, 4), "y": torch.zeros(0, 2)}, "x and y are empty: each part needs at least one pair"),
        ({"valid_x": torch.zeros(0, 4), "valid_y": torch.zeros(0, 2)}, "valid_x and valid_y are empty"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(change, message):
    parts = {f"{part}{k}": torch.zeros(3, n) for part in ("", "valid_", "test_") for k, n in (("x", 4), ("y", 2))}
    parts |= {"more_x": torch.zeros(0, 4), "more_y": torch.zeros(0, 2)}
    landmarks.Pairs("fits", **parts)
    with pytest.raises(ValueError, match=message):
        landmarks.Pairs("does not", **(parts | change))
