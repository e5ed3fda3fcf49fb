"""Claims that exact computation decides: noise is a penalty, and the older theory around it."""

import pandas as pd
import torch

from .. import sparsity, theory
from ..noise import keep_mask, sparseout
from .base import CONTRADICTED, HOLDS, MATHEMATICS, NO_NUMBER, THEORY, Claim, Finding, Judge, Section, Study


def _double(*shape: int, seed: int) -> torch.Tensor:
    # numbers without a random generator, so that every platform has the same
    return torch.sin(torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64) * (1.7 + seed)).view(shape)


def _worst(family: str, noise_on: str, size: float) -> float:
    """Largest relative difference of the closed form from the sum over all masks, over a grid of p and q."""
    features, weights = _double(12, 6, seed=0), _double(6, seed=1)
    if noise_on == "features":  # scaling what carries no noise scales the noise of the prediction and nothing else
        weights = size * weights
    else:
        features = size * features
    gaps = []
    for p in (0.1, 0.3, 0.5):
        for q in (0.5, 1.0, 1.5, 2.0, 3.0):
            exact = theory.exact_penalty(features, weights, p, q, family, noise_on)
            gaps.append(((theory.lq_penalty(features, weights, p, q, family, noise_on) - exact) / exact).abs().item())
    return max(gaps)


def _equivalence(noise_on: str) -> Judge:
    def judge(rows: pd.DataFrame) -> Finding:
        linear = _worst("gaussian", noise_on, 1.0)
        logistic = _worst("bernoulli", noise_on, 0.1)
        holds = linear < 1e-12 and logistic < 0.05
        return Finding(
            f"linear: largest relative error {'below 1e-12' if linear < 1e-12 else f'{linear:.1e}'}; "
            f"logistic at small noise: {100 * logistic:.1f} %",
            HOLDS if holds else CONTRADICTED,
            "closed form against the sum over all masks, p in {.1, .3, .5}, q in {.5, 1, 1.5, 2, 3}; exact for linear "
            "regression, second order otherwise; for deep networks it is a heuristic",
        )

    return judge


def _dropout_is_q2(rows: pd.DataFrame) -> Finding:
    x = _double(50_000, seed=2).float()
    same = []
    for p in (0.1, 0.3, 0.5, 0.9):
        noisy = sparseout(x, p, 2.0, generator=torch.Generator().manual_seed(0))
        mask = keep_mask(x, p, torch.Generator().manual_seed(0))
        same.append(torch.equal(noisy, x * mask.to(x.dtype).div_(1 - p)))
    return Finding(
        "every bit equal at the same mask" if all(same) else "bits differ",
        HOLDS if all(same) else CONTRADICTED,
        "for the odd form, which is the released one; the even form differs for negative values",
    )


def _ridge(rows: pd.DataFrame) -> Finding:
    """Dropout in linear regression: the closed form at q = 2 is a ridge penalty with the features' power as weights."""
    features, weights = _double(12, 6, seed=0), _double(6, seed=1)
    gaps = []
    for p in (0.1, 0.3, 0.5):
        exact = theory.exact_penalty(features, weights, p, 2.0, "gaussian", "features")
        ridge = 0.5 * p / (1 - p) * (features.square().mean(0) * weights.square()).sum()
        gaps.append(((ridge - exact) / exact).abs().item())
    return Finding(
        f"largest relative error {'below 1e-12' if max(gaps) < 1e-12 else f'{max(gaps):.1e}'}",
        HOLDS if max(gaps) < 1e-12 else CONTRADICTED,
        "ridge penalty against the sum over all masks, linear regression, p in {.1, .3, .5}",
    )


def _cloning(rows: pd.DataFrame) -> Finding:
    x = _double(20, seed=3).abs()
    gini, hoyer = (abs(float(f(x.repeat(2)) - f(x))) for f in (sparsity.gini, sparsity.hoyer))
    return Finding(
        f"a vector of 20 repeated: Gini changes by {'less than 1e-12' if gini < 1e-12 else f'{gini:.1e}'}, "
        f"Hoyer by {hoyer:.3f}",
        HOLDS if gini < 1e-12 and hoyer > 1e-3 else CONTRADICTED,
        "one vector: it shows that Hoyer fails, and for Gini it is an example and no proof",
    )


SECTION = Section(
    "Noise is a penalty",
    "Checked by exact computation each time this page is written.",
    (
        Claim(
            "Sparseout's noise is an L_q penalty on the features of a generalised linear model",
            "Khan & Stavness 2019, abstract",
            NO_NUMBER,
            THEORY,
            "chapter 1; `bridgeout report`",
            _equivalence("features"),
            kind=MATHEMATICS,
        ),
        Claim(
            "Dropout is Sparseout at q = 2",
            "Khan & Stavness 2019, abstract",
            "equal",
            THEORY,
            "chapter 1; `bridgeout report`",
            _dropout_is_q2,
            kind=MATHEMATICS,
        ),
        Claim(
            "Bridgeout's noise is an L_q penalty on the weights of a generalised linear model",
            "Khan, Shah & Stavness 2018, abstract",
            NO_NUMBER,
            THEORY,
            "chapter 2; `bridgeout report`",
            _equivalence("weights"),
            kind=MATHEMATICS,
        ),
    ),
)

OLDER = Section(
    "Older theory and measures",
    "Checked by exact computation each time this page is written.",
    (
        Claim(
            "Dropout in a generalised linear model is an adaptive ridge penalty, exactly in linear regression",
            "Wager, Wang & Liang 2013",
            "equal",
            THEORY,
            "chapter 1; `bridgeout report`",
            _ridge,
            kind=MATHEMATICS,
        ),
        Claim(
            "Repeating a vector leaves its Gini index as it is, and changes Hoyer's measure",
            "Hurley & Rickard 2009, abstract: of fifteen measures only Gini has all six properties",
            NO_NUMBER,
            THEORY,
            "`bridgeout report`",
            _cloning,
            kind=MATHEMATICS,
        ),
    ),
)

STUDY = Study("theory", sections=(SECTION,))
