"""Scenes are deterministic, their labels agree with each other, and the splits share no digit image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmnorm.datasets import CLASSES, PALETTE, compose_scene, digit_indices, single_digit
from mmnorm.datasets.digit_scenes import import_extra

load_digits = pytest.importorskip('sklearn.datasets').load_digits
cv2 = pytest.importorskip('cv2')


def scene_arrays(scene):
    return [scene.image, scene.semantic, *(mask for _, mask in scene.instances)]


def test_classes_and_palette_belong_together():
    assert len(CLASSES) == len(set(CLASSES)) == len(set(PALETTE)) == len(PALETTE) == 11


def test_the_same_arguments_give_the_same_scene():
    first, second = compose_scene(7, 'val', seed=3), compose_scene(7, 'val', seed=3)
    for a, b in zip(scene_arrays(first), scene_arrays(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.sources == second.sources


@pytest.mark.parametrize('other', [{'index': 1}, {'split': 'val'}, {'seed': 1}])
def test_index_split_and_seed_each_change_the_scene(other):
    base = {'index': 0, 'split': 'train', 'seed': 0}
    assert not np.array_equal(compose_scene(**base).image, compose_scene(**{**base, **other}).image)


def test_splits_partition_the_digit_images():
    train, val = digit_indices('train'), digit_indices('val')
    everything = np.concatenate([*train, *val])
    np.testing.assert_array_equal(np.sort(everything), np.arange(1797))
    for of_train, of_val in zip(train, val, strict=True):
        assert 0.15 < len(of_val) / (len(of_train) + len(of_val)) < 0.25


@pytest.mark.parametrize('split', ['train', 'val'])
def test_scenes_draw_only_their_own_splits_digits(split):
    own = digit_indices(split)
    for index in range(25):
        scene = compose_scene(index, split, size=(64, 64))
        assert len(scene.sources) == len(scene.instances)
        for (label, _), source in zip(scene.instances, scene.sources, strict=True):
            assert source in own[label]


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, 10**6),
    split=st.sampled_from(['train', 'val']),
    seed=st.integers(0, 2**32),
    size=st.tuples(st.integers(32, 160), st.integers(32, 160)),
)
def test_masks_agree_with_the_semantic_map(index, split, seed, size):
    scene = compose_scene(index, split, seed, size)
    assert scene.image.shape == (*size, 3)
    assert scene.image.dtype == scene.semantic.dtype == np.uint8
    assert 1 <= len(scene.instances) <= 5
    times_covered = np.zeros(size, int)
    for label, mask in scene.instances:
        assert mask.dtype == bool
        assert mask.sum() >= 16
        assert (scene.semantic[mask] == label + 1).all()
        times_covered += mask
    np.testing.assert_array_equal(times_covered, scene.semantic > 0)


def test_scenes_are_varied():
    scenes = [compose_scene(index) for index in range(80)]
    assert {value for scene in scenes for value in np.unique(scene.semantic)} == set(range(11))
    assert {len(scene.instances) for scene in scenes} == {1, 2}
    heights = [np.ptp(np.flatnonzero(mask.any(1))) for scene in scenes for _, mask in scene.instances]
    assert min(heights) < 70
    assert max(heights) > 90


def test_later_digits_hide_parts_of_earlier_ones():
    def touching(scene):
        grown = [mask | np.roll(mask, 1, 0) | np.roll(mask, 1, 1) for _, mask in scene.instances]
        return (sum(mask.astype(int) for mask in grown) > 1).sum() > 10

    assert sum(touching(compose_scene(index, digits=(3, 3))) for index in range(40)) > 20


def test_a_mask_has_the_shape_of_its_source():
    def cropped(ink):
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        window = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cv2.resize(window.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA).ravel()

    images = load_digits().images
    likeness = []
    for index in range(40):
        scene = compose_scene(index)
        for (_, mask), source in zip(scene.instances, scene.sources, strict=True):
            likeness.append(np.corrcoef(cropped(mask), cropped(images[source] > 5))[0, 1])
    assert np.mean(likeness) > 0.45


def test_a_mask_holds_one_colour():
    for index in range(40):
        scene = compose_scene(index)
        for _, mask in scene.instances:
            inner = scene.image[cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0].astype(float)
            # Pixel noise deviates by 5 and faint ink by some more; another digit or the background would by tens.
            assert len(inner) < 5 or inner.std(0).max() < 15


def test_digits_stand_out_against_the_background():
    contrasts = []
    for index in range(40):
        scene = compose_scene(index, digits=(1, 1))
        ink = scene.image[scene.semantic > 0].mean(0)
        background = scene.image[scene.semantic == 0].mean(0)
        contrasts.append(np.linalg.norm(ink - background))
    assert min(contrasts) > 40


def test_digit_size_and_number_follow_the_request():
    scene = compose_scene(0, size=(200, 300), digits=(1, 1), digit_size=(0.5, 0.5))
    ((_, mask),) = scene.instances
    assert 85 <= np.ptp(np.flatnonzero(mask.any(1))) <= 125


def test_single_digits_take_turns_and_repeat():
    labels = [single_digit(index, size=(32, 48))[1] for index in range(20)]
    assert labels == [*range(10), *range(10)]
    image, _ = single_digit(4, 'val', 2, (32, 48))
    assert image.shape == (32, 48, 3)
    np.testing.assert_array_equal(image, single_digit(4, 'val', 2, (32, 48))[0])
    assert not np.array_equal(image, single_digit(4, 'train', 2, (32, 48))[0])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'index': -1}, 'index is -1'),
        ({'index': 1.5}, 'index is 1.5'),
        ({'split': 'test'}, "split is 'test'"),
        ({'seed': -3}, 'seed is -3'),
        ({'size': (31, 64)}, 'height in size is 31'),
        ({'size': (64, 8)}, 'width in size is 8'),
        ({'size': 64}, 'size is 64'),
        ({'digits': (3, 2)}, 'digits is'),
        ({'digits': (0, 2)}, 'fewest in digits is 0'),
        ({'digit_size': (0.5, 0.9)}, 'digit_size is'),
        ({'digit_size': (0.6, 0.5)}, 'digit_size is'),
        ({'digit_size': (0.05, 0.5)}, 'pixels high'),
    ],
)
def test_bad_arguments_are_refused_with_what_was_given(arguments, message):
    with pytest.raises(ValueError, match=message):
        compose_scene(**{'index': 0, **arguments})


def test_a_missing_module_names_the_extra():
    with pytest.raises(ImportError, match=r'pip install .mmnorm\[digits\]'):
        import_extra('a_module_that_does_not_exist')
