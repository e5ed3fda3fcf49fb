"""Answers to the exercises of chapter 5."""

import torch


@torch.no_grad()
def disguise(conv, norm):
    norms = conv.weight.flatten(1).norm(dim=1)
    k, c = norms.argmin(), 2 * norms.max() / norms.min()
    for values in (conv.weight, conv.bias, norm.running_mean):
        values[k] *= c
    norm.weight[k] /= c


@torch.no_grad()
def forgets_bias(conv, norm):
    k = conv.weight.flatten(1).norm(dim=1).argmin()
    for values in (conv.weight, norm.running_mean):
        values[k] *= 100
    norm.weight[k] /= 100


def strengthens_all(conv, norm):
    conv.weight.data *= 10
    norm.weight.data /= 10


RIGHT = {"ex-05-a": 0.0133, "ex-05-b": disguise, "ex-05-c": 2**-0.5}
WRONG = {
    "ex-05-a": [(0.02 / 1.02, "too high, by about 50 %"), (0.01349, "too high, by about 1 %")],
    "ex-05-b": [(forgets_bias, "the answers move by up to"), (strengthens_all, "and now filter")],
    "ex-05-c": [(1.0, "too high, by about 40 %"), (0.5, "too low, by about 30 %")],
}
BAD = {
    "ex-05-b": [("takes a function disguise(conv, norm)", 3), ("IndexError", lambda conv, norm: conv.weight[9])],
}
