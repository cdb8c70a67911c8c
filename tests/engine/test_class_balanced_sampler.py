"""ClassBalancedSampler: every class equally often, its images too, one sequence for all processes."""

from collections import Counter
from itertools import islice

import pytest
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler

from mmnorm.engine import class_balanced_sampler

SIZES = {3: 200, 0: 10, 7: 1}
LABELS = [label for label, size in SIZES.items() for _ in range(size)]


class Data:
    """Classes of very different sizes, in no order, some numbers missing."""

    def __len__(self):
        return len(LABELS)

    def get_data_info(self, index):
        return dict(gt_label=LABELS[index * 37 % len(LABELS)])


def draw(number, **options):
    sampler = DATA_SAMPLERS.build(dict(type='ClassBalancedSampler', dataset=Data(), **options))
    return list(islice(iter(sampler), number))


def test_every_class_and_every_image_of_it():
    drawn = draw(6000, seed=0)
    labels = Counter(Data().get_data_info(i)['gt_label'] for i in drawn)
    assert labels.keys() == SIZES.keys()
    # 2000 each, within 5 standard deviations (37).
    assert all(abs(count - 2000) < 185 for count in labels.values())
    images = Counter(drawn)
    of_ten = [images[i] for i in range(len(LABELS)) if Data().get_data_info(i)['gt_label'] == 0]
    assert len(of_ten) == 10
    assert all(abs(count - 200) < 70 for count in of_ten)


def test_the_seed_decides():
    assert draw(100, seed=1) == draw(100, seed=1) != draw(100, seed=2)


def test_processes_share_one_sequence(monkeypatch):
    whole = draw(40, seed=3)
    parts = []
    for rank in range(4):
        monkeypatch.setattr(class_balanced_sampler, 'get_dist_info', lambda rank=rank: (rank, 4))
        parts.append(draw(10, seed=3))
    assert [index for row in zip(*parts, strict=True) for index in row] == whole


def test_batches_without_end():
    sampler = DATA_SAMPLERS.build(dict(type='ClassBalancedSampler', dataset=Data(), seed=0))
    assert len(sampler) == len(LABELS)
    assert sum(len(batch) for batch in islice(BatchSampler(sampler, 8, True), 100)) == 800


def test_a_seed_of_its_own(monkeypatch):
    monkeypatch.setattr(class_balanced_sampler, 'sync_random_seed', lambda: 5)
    assert draw(20) == draw(20, seed=5)


def test_data_without_labels():
    class Plain(Data):
        def get_data_info(self, index):
            return dict(img_path='x')

    with pytest.raises(KeyError, match='gt_label'):
        DATA_SAMPLERS.build(dict(type='ClassBalancedSampler', dataset=Plain()))
