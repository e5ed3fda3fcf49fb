"""Answers to the exercises of chapter 13."""

import math

import torch


def rebuild(x, W1, b1, W2, b2, c2, c1):
    code = torch.relu(torch.relu(x @ W1.T + b1) @ W2.T + b2)
    return torch.relu(code @ W2 + c2) @ W1 + c1


def code_at_the_end(*given):
    return torch.relu(rebuild(*given))


def linear_back(x, W1, b1, W2, b2, c2, c1):
    code = torch.relu(torch.relu(x @ W1.T + b1) @ W2.T + b2)
    return (code @ W2 + c2) @ W1 + c1


RIGHT = {"ex-13-a": 7, "ex-13-b": rebuild, "ex-13-c": math.cos(math.radians(20))}
WRONG = {
    "ex-13-a": [(8, "too high, by about 10 %"), (6, "too low, by about 10 %")],
    "ex-13-b": [
        (code_at_the_end, "nothing below zero comes out"),
        (linear_back, "differs from the package's by up to"),
        (lambda x, *given: x[:, :6], "it should give (5, 12)"),
    ],
    "ex-13-c": [(1.0, "too high, by about 6 %"), (math.cos(20), "too low")],
}
BAD = {
    "ex-13-a": [("takes one finite number", "seven")],
    "ex-13-b": [("takes a function rebuild(x, W1, b1, W2, b2, c2, c1)", 3), ("TypeError", lambda x: x)],
}
