"""Proximal maps: each map against brute force, the dead zone against the map, and where both ways down end."""

import numpy as np
import pytest

from bridgeout_lite.widgets.proximal import KINDS, STEP, STEPS, ProximalMaps, dead_zone, penalty, proximal

PLACES = [(kind, mu, q) for kind in KINDS for mu in (0.1, 0.6, 1.5) for q in ((0.5, 0.75, 1.0, 1.5, 2.0))]
V = np.linspace(-4, 4, 400_001)


@pytest.mark.parametrize("step", [1.0, STEP])
@pytest.mark.parametrize("kind, mu, q", PLACES)
def test_no_other_point_is_better(kind, mu, q, step):
    for w in (-2.7, -1.31, -0.45, 0.0, 0.17, 0.83, 1.9, 3.0):
        found = proximal(kind, w, mu, q, step)
        least = step * penalty(kind, np.array(found), mu, q) + (found - w) ** 2 / 2
        assert least <= (step * penalty(kind, V, mu, q) + (V - w) ** 2 / 2).min() + 1e-9, w
        assert found == -proximal(kind, -w, mu, q, step) and abs(found) <= abs(w)


@pytest.mark.parametrize("kind, mu, q", PLACES)
def test_the_dead_zone_is_where_the_map_is_zero(kind, mu, q):
    edge = dead_zone(kind, mu, q)
    assert (edge == 0) == (kind == "bridge" and q > 1)
    assert proximal(kind, 1.001 * edge + 1e-3, mu, q) > 0
    assert proximal(kind, 0.999 * edge, mu, q) == 0


def test_proximal_steps_reach_zero_and_gradient_steps_do_not():
    figure = ProximalMaps(kind="bridge", q=1.0, mu=0.6, w=0.5)
    down, near = figure.walks()
    assert len(down) == len(near) == STEPS + 1
    assert near[-1] == 0 and all(v == 0 for v in near[-20:])
    assert all(v != 0 for v in down) and max(map(abs, down[-20:])) <= STEP * (0.6 + 0.5)  # of one step
    ridge = ProximalMaps(q=2.0, mu=0.6, w=0.5)
    down, near = ridge.walks()
    assert near[-1] == pytest.approx(0.5 / 2.2) and down[-1] == pytest.approx(near[-1], abs=1e-6)
