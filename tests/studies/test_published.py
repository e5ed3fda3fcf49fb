"""The published curves are those that were read from the published figures."""

import hashlib
import json
from pathlib import Path

import pytest

from bridgeout_lite.studies import published

READ = Path(__file__).parents[3] / "shared" / "facts" / "batch_bridgeout_curves.json"


def test_every_curve_is_there_and_plausible():
    for network in published.NETWORKS:
        for dataset in published.DATASETS:
            for method in published.METHODS:
                frame = published.curve(network, dataset, method)
                assert list(frame.columns) == ["amount", "accuracy", "error"] and 4 <= len(frame) <= 8
                assert frame["amount"].tolist() == [k / 10 for k in range(len(frame))]
                assert frame["accuracy"].between(0.5, 97).all() and frame["error"].between(0, 11).all()
                # means of two or three runs of 10,000 images, which the digits given here tell apart
                runs = 2 if (network, dataset, method) == ("wrn-28-10", "cifar100", "none") else 3
                images = frame["accuracy"] * 100 * runs
                assert (abs(images - images.round()) < 0.06 * runs).all()


def test_one_number_that_can_be_looked_up():
    frame = published.curve("vgg16", "cifar10", "bridgeout").set_index("amount")
    assert frame.loc[0.4, "accuracy"] == 87.533 and frame.loc[0.4, "error"] == 0.666


def test_the_curves_are_what_they_were_and_every_number_has_its_source():
    folder = Path(published.__file__).parent
    checksum = hashlib.sha256((folder / "curves.csv").read_bytes()).hexdigest()
    assert checksum == "c5426fdafb1e2a4509abb8aafaae369ebd009113d046d2a2652c05cc0ba58b85"
    tables = sorted(path.stem for path in folder.glob("*.csv"))
    for name in tables:
        rows = published._rows(name)
        assert rows and all(row["source"] and None not in row for row in rows), name
    assert len(tables) == 5


def test_the_counts_of_a_pruned_network():
    assert published.resnet_counts("ResNet-56 pruned-A") == (769_466, 112_435_840)
    with pytest.raises(ValueError, match=r"network must be one of 'ResNet-20', .*, got 'ResNet-18'"):
        published.resnet_counts("ResNet-18")


def test_the_numbers_are_those_that_were_read_from_the_figures():
    if not READ.is_file():
        pytest.skip("the digitised figures are not beside this checkout")
    names = {name: key for key, name in published.METHODS.items()}
    networks = dict(zip(("VGG", "Res", "Wid"), published.NETWORKS, strict=True))
    curves = json.loads(READ.read_text())["curves"]
    assert len(curves) == 18
    for read in curves:
        frame = published.curve(
            networks[read["network"][:3]], read["dataset"].replace("-", "").lower(), names[read["method"]]
        )
        assert frame["amount"].tolist() == read["x_pruned_fraction"]
        assert frame["accuracy"].tolist() == read["y_test_accuracy_percent"]
        assert frame["error"].tolist() == read["y_error_bar_half_height"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("vgg11", "cifar10", "none"), "network 'vgg11': use one of 'vgg16', 'resnet34c', 'wrn-28-10'"),
        (("vgg16", "digits", "none"), "dataset 'digits': use one of 'cifar10', 'cifar100'"),
        (("vgg16", "cifar10", "sparseout"), "method 'sparseout': use one of 'none', 'dropout', 'bridgeout'"),
    ],
)
def test_what_is_not_published_is_a_value_error(wanted, message):
    with pytest.raises(ValueError, match=message):
        published.curve(*wanted)
