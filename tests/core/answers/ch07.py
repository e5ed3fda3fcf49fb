"""Answers to the exercises of chapter 7."""

import copy

from torch import nn


def fold(conv, norm):
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    folded = copy.deepcopy(conv)
    folded.weight.data = conv.weight.data * scale[:, None, None, None]
    folded.bias.data = (scale * (conv.bias - norm.running_mean) + norm.bias).data
    return folded


def in_place(conv, norm):
    conv.weight.data *= 2
    return fold(conv, norm)


def forgets_the_mean(conv, norm):
    folded = fold(conv, norm)
    folded.bias.data = norm.bias.data
    return folded


RIGHT = {"ex-07-a": 31_025_922, "ex-07-b": fold, "ex-07-c": 9 / 41}
WRONG = {
    "ex-07-a": [(30_000_000, "too low, by about 3 %"), (62_051_844, "too high, by about 100 %")],
    "ex-07-b": [
        (in_place, "it changes the convolution that it is given"),
        (forgets_the_mean, "the outputs differ by up to"),
        (lambda conv, norm: nn.Conv2d(3, 5, 3).double(), "keep stride and padding"),
    ],
    "ex-07-c": [(9 / 73, "too low, by about 40 %")],
}
BAD = {
    "ex-07-a": [("takes one finite number", "many")],
    "ex-07-b": [("takes a function fold(conv, norm)", 3), ("ZeroDivisionError", lambda conv, norm: 1 / 0)],
    "ex-07-c": [("takes one finite number", "a fifth")],
}
