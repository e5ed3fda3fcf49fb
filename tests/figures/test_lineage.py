"""A lineage: the draws against the law, its two laws, and what a cut by size keeps."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from bridgeout_lite.rivals.gates import synapse_probability
from bridgeout_lite.widgets.lineage import GENERATIONS, WEIGHTS, Lineage


@pytest.mark.parametrize("law", ["exp", "rescaled"])
def test_each_generation_is_drawn_by_the_law(law):
    for seed in range(5):
        found = Lineage(law=law, factor=0.9, seed=seed).generations()
        assert len(found) == GENERATIONS + 1 and len(found[0].sizes) == WEIGHTS
        for before, after in pairwise(found):
            assert set(after.sizes) <= set(before.sizes)
            chance = 0.9 * synapse_probability(torch.from_numpy(before.sizes), law).numpy() if len(before.sizes) else 0
            assert after.expected == pytest.approx(np.sum(chance))
            # six standard deviations: 2e-9 for each of 80 draws
            assert abs(len(after.sizes) - after.expected) <= 6 * np.sqrt(np.sum(chance * (1 - chance))) + 1e-9


def test_the_parent_is_normal_and_the_published_law_hardly_selects():
    parent = np.concatenate([Lineage(seed=seed).generations()[0].sizes for seed in range(21)])
    assert parent.mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.04)  # 6 standard errors: 0.04
    one = {law: [Lineage(law=law, seed=seed).generations()[1] for seed in range(21)] for law in ("exp", "rescaled")}
    ratio = {law: np.mean([g.large for g in gs]) / np.mean([g.small for g in gs]) for law, gs in one.items()}
    assert ratio["exp"] < 2 and ratio["rescaled"] > 4


def test_a_cut_keeps_the_largest():
    figure = Lineage(generation=2)
    shown = figure.numbers()
    parent = figure.generations()[0].sizes
    assert shown["cut_mean_size"] == pytest.approx(np.sort(parent)[-int(shown["left"]) :].mean())
    assert shown["mean_size"] < shown["cut_mean_size"]
    assert Lineage(generation=0).numbers()["mean_size"] == pytest.approx(parent.mean())
