"""Answers to the exercises of chapter 6."""


def pooled(means, variances, n):
    within = (n - 1) * variances.sum(0)
    between = n * (means - means.mean(0)).square().sum(0)
    return means.mean(0), (within + between) / (n * len(means) - 1)


RIGHT = {
    "ex-06-a": "the mean of its pre-activation is many sigmas below zero",
    "ex-06-b": 0.0442,
    "ex-06-c": pooled,
}
WRONG = {
    "ex-06-a": [("the mean of its pre-activation is many sigmas above zero", "not this one")],
    "ex-06-b": [(0.08, "too high, by about 80 %"), (1 / 128, "too low, by about 80 %")],
    "ex-06-c": [
        (
            lambda means, variances, n: (means.mean(0), variances.mean(0)),
            "of 5 batches of 8 the variances are off by -",
        ),
        (lambda means, variances, n: (means.sum(0), variances.mean(0)), "the means are not those of all values"),
        (lambda means, variances, n: (means.mean(), variances.mean()), "3 means and 3 variances"),
    ],
}
BAD = {
    "ex-06-a": [("many sigmas below zero", "far below zero")],
    "ex-06-b": [("takes one finite number", "small")],
    "ex-06-c": [("takes a function pooled(means, variances, n)", 3)],
}
