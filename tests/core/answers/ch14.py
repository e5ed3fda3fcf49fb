"""Answers to the exercises of chapter 14."""


def field(layers):
    size, step = 1, 1
    for kernel, stride in layers:
        size += (kernel - 1) * step
        step *= stride
    return size


RIGHT = {"ex-14-a": -2.97 / 1.01, "ex-14-b": field, "ex-14-c": "any split of the weight"}
WRONG = {
    "ex-14-a": [(-3.0, "too low, by about 2 %"), (2.94, "wrong sign"), (-2.97, "too low, by about 1 %")],
    "ex-14-b": [
        (lambda layers: 1 + sum(kernel - 1 for kernel, _ in layers), "it gives 9 pixels for [(5, 2), (3, 2), (3, 1)]"),
        (lambda layers: layers[-1][0], "it gives 2 pixels for [(3, 1), (2, 2)]"),
    ],
    "ex-14-c": [("only one of them", "not this one")],
}
BAD = {
    "ex-14-a": [("takes one finite number", "minus three")],
    "ex-14-b": [("takes a function field(layers)", 12)],
    "ex-14-c": [("did you mean 'neither'?", "neithr")],
}
