"""Areas by image, which IoU is made of, and the spread over images that comes of them."""

import numpy as np
import pytest
import torch

from mmnorm.engine.image_areas_hook import FILE, areas_of
from mmnorm.experiments.sweeps.areas import areas_of_text, bootstrap, miou, read_areas


def test_areas_of_an_image():
    found = torch.tensor([[0, 0, 1], [1, 1, 2]])
    label = torch.tensor([[0, 1, 1], [1, 255, 0]])
    # Pixels right: one of 0, two of 1; the one that is void does not count.
    assert areas_of(found, label, 4).tolist() == [[1, 3], [2, 3], [0, 1], [0, 0]]


@pytest.fixture
def areas():
    rng = np.random.default_rng(0)
    union = rng.integers(1, 70_000, (50, 3))
    return np.stack([(union * rng.uniform(0.2, 0.8, union.shape)).astype(int), union], 2)


def text_of(folder, areas):
    np.savez_compressed(folder / FILE, areas=areas)
    return read_areas(folder)


def test_as_text_and_back(tmp_path, areas):
    assert read_areas(tmp_path) == ''
    assert np.array_equal(areas_of_text(text_of(tmp_path, areas)), areas)


def test_miou(areas):
    right, union = areas.sum(0).T
    assert miou(areas) == pytest.approx(100 * (right / union).mean())
    weights = np.zeros((2, 50))
    weights[0, 7] = weights[1, 9] = 3
    assert miou(areas, weights) == pytest.approx(100 * (areas[[7, 9], :, 0] / areas[[7, 9], :, 1]).mean(1))
    # A class that is nowhere does not count.
    areas[:, 2] = 0
    assert miou(areas) == pytest.approx(100 * (right / union)[:2].mean())


def test_bootstrap(tmp_path, areas):
    # One class, all images of the same size: the error of a mean.
    areas = areas[:, :1]
    areas[:, 0, 0] = areas[:, 0, 0] * 10_000 // areas[:, 0, 1]
    areas[:, 0, 1] = 10_000
    error = (areas[:, 0, 0] / 100).std() / 50**0.5
    text = text_of(tmp_path, areas)
    assert bootstrap([text, text]) == pytest.approx(error, rel=0.1)
    # What is the same in each image has no error over images.
    better = areas.copy()
    better[:, 0, 0] += 500
    assert bootstrap([text_of(tmp_path, better)], [text]) == pytest.approx(0, abs=1e-9)
