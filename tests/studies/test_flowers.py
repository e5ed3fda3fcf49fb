"""The drawn flowers: the mask is exact, the rest says nothing about the class, and the same seed gives the same set."""

import itertools

import pytest
import torch

from bridgeout_lite import Recipe, build_model, fit
from bridgeout_lite.studies.explanations.flowers import (
    COLOURS,
    GRAIN,
    JITTER,
    PARTS,
    VARIANTS,
    class_names,
    flowers,
    render,
    sketch,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_mask_is_where_another_class_would_look_different(variant):
    drawn = sketch(120, variant, generator())
    pixels, mask = render(drawn)
    differs = torch.zeros_like(mask)
    for shift in range(1, len(class_names(variant))):
        other, same_mask = render(drawn.with_classes((drawn.y + shift) % len(class_names(variant))))
        assert torch.equal(mask, same_mask)
        differs |= (other != pixels).any(1)
    assert torch.equal(differs, mask)


def test_one_colour_changed_changes_one_part():
    drawn = sketch(60, "double-12c", generator())
    disc, leaf = torch.zeros(60, 32, 32, dtype=torch.bool), torch.zeros(60, 32, 32, dtype=torch.bool)
    pixels, mask = render(drawn)
    other, _ = render(drawn.with_classes(drawn.y // 3 * 3 + (drawn.y % 3 + 1) % 3))
    leaf = (other != pixels).any(1)
    other, _ = render(drawn.with_classes((drawn.y + 3) % 12))
    disc = (other != pixels).any(1)
    assert torch.equal(disc | leaf, mask) and not torch.equal(disc, mask) and not torch.equal(leaf, mask)
    single, _ = render(sketch(60, "single-6c", generator()))
    assert single.shape == pixels.shape == (60, 3, 32, 32) and pixels.dtype == torch.uint8


def test_colours_are_far_enough_apart_for_the_mask_to_be_exact():
    palette = torch.tensor(list(COLOURS.values()))
    for a, b in itertools.combinations(palette, 2):
        assert (a - b).abs().max() / 9 > 2, "rounding could hide the difference"
    assert palette.min() - JITTER - GRAIN > 0 and palette.max() + JITTER + GRAIN < 255, "clamping could hide it"


def test_the_indifferent_parts_do_not_tell_the_class():
    drawn = sketch(6000, "single-6c", generator())
    palette = torch.tensor(list(COLOURS.values()))
    for part in ("stem", "leaf", "petals"):
        colour = (drawn.colours[:, PARTS.index(part), None] == palette).all(2).float().argmax(1)
        table = torch.zeros(6, 6).index_put((drawn.y, colour), torch.ones(6000), accumulate=True)
        # chi-squared with 25 degrees of freedom exceeds 90 with a probability below 1e-8
        expected = table.sum(1, keepdim=True) * table.sum(0) / 6000
        assert ((table - expected).square() / expected).sum() < 90
    assert torch.equal(drawn.y.bincount(), torch.full((6,), 1000)), "every class is as frequent"


def test_a_set_is_like_any_other_image_set():
    images = flowers("double-12c", train=90, valid=30, test=40, seed=3)
    assert (images.num_classes, len(images.train), len(images.valid), len(images.test)) == (12, 90, 30, 40)
    assert images.name == "flowers-double-12c" and images.classes[0] == "red disc, yellow leaf"
    assert images.to("cpu").test.mask.shape == (40, 32, 32)
    normal = images.normalize(images.train.x)
    assert normal.mean((0, 2, 3)).abs().max() < 1e-4 and (normal.std((0, 2, 3)) - 1).abs().max() < 1e-3
    again = flowers("double-12c", train=90, valid=30, test=40, seed=3)
    assert again.checksum == images.checksum
    assert flowers("double-12c", train=90, valid=30, test=40, seed=4).checksum != images.checksum
    longer = flowers("double-12c", train=100, valid=30, test=40, seed=3)
    assert torch.equal(longer.test.x, images.test.x), "another size of one split leaves the others"
    history = fit(build_model("smallcnn", width=0.25, num_classes=12), images, Recipe(epochs=1, batch_size=32))
    assert len(history.frame) == 1


def test_many_flowers_are_drawn_as_few_are():
    drawn = sketch(300, "single-6c", generator())
    pixels, mask = render(drawn)
    assert 0.01 < mask.float().mean() < 0.1 and bool(mask.flatten(1).any(1).all()), "every flower has its part"
    assert pixels.float().std() > 20


@pytest.mark.parametrize("bad", [0, -1, 2.5, True])
def test_bad_numbers_of_flowers(bad):
    with pytest.raises(ValueError, match="number of flowers must be a whole number >= 1"):
        sketch(bad)


def test_an_unknown_variant():
    with pytest.raises(ValueError, match="variant must be one of"):
        flowers("tripel-24c")
