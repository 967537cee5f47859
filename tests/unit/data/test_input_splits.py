import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from raydistill.data.input_splits import WeightedSource, entering, interleave, is_validation, validation_splits
from raydistill.data.sources._base import Item


def items(name: str, number: int) -> list[Item]:
    return [Item(f"{name}{place}", fingerprint="") for place in range(number)]


def test_one_source_is_read_in_its_order():
    splits = interleave([items("a", 5)], [1.0])
    assert [split.item.name for split in splits] == ["a0", "a1", "a2", "a3", "a4"]
    assert [split.number for split in splits] == [0, 1, 2, 3, 4]
    assert {split.share for split in splits} == {1.0}


def test_a_weight_reads_items_once_for_each_whole_and_once_in_part():
    splits = interleave([items("a", 3)], [2.25])
    assert [split.item.name for split in splits] == 3 * ["a0", "a1", "a2"]
    assert [split.share for split in splits] == 6 * [1.0] + 3 * [0.25]


def test_every_stretch_has_each_source_in_its_proportion():
    splits = interleave([items("a", 10), items("b", 100), items("c", 30)], [1.0, 0.5, 2.0])
    whole = Counter(split.source for split in splits)
    assert whole == {0: 10, 1: 100, 2: 60}
    for start in range(0, len(splits), 17):
        stretch = Counter(split.source for split in splits[start : start + 17])
        assert all(abs(stretch[source] - number / 10) <= 1.5 for source, number in whole.items())


def test_a_share_takes_that_share_of_the_texts_and_a_whole_reading_all():
    numbers = np.arange(10_000)
    [part] = interleave([items("a", 1)], [0.3])
    assert abs(entering(part, numbers, seed=0).mean() - 0.3) < 0.02
    assert (entering(part, numbers, seed=0) != entering(part, numbers, seed=1)).any()
    [whole] = interleave([items("a", 1)], [1.0])
    assert entering(whole, numbers, seed=0).all()


def test_copies_of_a_text_are_all_validation_or_none():
    numbers = np.arange(1000)
    splits = interleave([items("a", 1), items("a", 1)], [2.5, 1.0], validation=0.2)
    decisions = [is_validation(split, numbers, seed=0) for split in splits]
    assert len(decisions) == 4
    assert all((decision == decisions[0]).all() for decision in decisions)
    assert abs(decisions[0].mean() - 0.2) < 0.05


@pytest.mark.parametrize("weight", [1.0, 0.5])
@pytest.mark.parametrize("folder", ["/elsewhere", "s3://bucket/texts", "/data/a"])
def test_rows_are_drawn_alike_wherever_the_files_lie(folder, weight):
    def drawn(root):
        files = [[Item(f"{root}/x/a.txt", "", 0, 9), Item(f"{root}/y/a.txt", "")], [Item(f"{root}/z.txt", "")]]
        splits = interleave(files, [weight, weight], validation=0.5)
        return [(is_validation(split, numbers, seed=0), entering(split, numbers, seed=0)) for split in splits]

    numbers = np.arange(100)
    here, there = drawn("/data"), drawn(folder)
    np.testing.assert_array_equal(here, there)
    assert len({apart.tobytes() for apart, _ in here}) == 3


def test_a_member_of_a_package_keeps_its_folders_in_what_it_is_drawn_by():
    [member, file] = interleave([[Item("books/a.txt", "", local_copy="/tmp/a.whl"), Item("/data/b.txt", "")]], [1.0])
    assert (member.drawn_as, file.drawn_as) == ("books/a.txt", "b.txt")


def test_which_texts_enter_does_not_depend_on_which_are_validation():
    numbers = np.arange(100_000)
    [part] = interleave([items("a", 1)], [0.5], validation=0.5)
    apart = is_validation(part, numbers, seed=0)
    assert abs(entering(part, numbers[apart], seed=0).mean() - 0.5) < 0.01


def test_units_of_a_validation_source_come_last_whole_and_go_to_no_other_part():
    splits = interleave([items("a", 3)], [1.5])
    apart = validation_splits(items("b", 2), after=splits, source=1)
    assert [split.number for split in (*splits, *apart)] == list(range(8))
    assert {split.parts for split in splits} == {(0,)}
    assert [(split.source, split.share, split.parts) for split in apart] == 2 * [(1, 1.0, (1,))]
    numbers = np.arange(1000)
    assert is_validation(apart[0], numbers, seed=0).all()
    assert not is_validation(splits[0], numbers, seed=0).any()
    assert {split.parts for split in interleave([items("a", 3)], [1.0], validation=0.1)} == {(0, 1)}


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_a_weight_that_is_no_positive_number_is_refused(weight):
    with pytest.raises(ValueError, match=f"the weight of source text is {weight}; give a positive number"):
        WeightedSource(SimpleNamespace(name="text"), weight)
