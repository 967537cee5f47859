"""A part of a corpus's classes: the rows that are read, what their labels are, and what is refused."""

from collections import Counter

import numpy as np
import pytest

from raydistill.config.sections import CorpusRef
from raydistill.data.corpus import Corpus
from raydistill.data.mixture import CorpusPart, open_cached, open_mixture
from raydistill.data.stream import BatchBuilder, FeedSpec, validation_batches
from raydistill.tasks._base import Column
from toys.corpus import random_rows, write_corpus

LABELS = ["red", "green", "blue", "pink"]
SUBSET = ("pink", "green")
NUM_ROWS = 250
COLUMNS = {"label": Column("int64"), "second": Column("int32")}
CLASSES = [(row * 7) % 5 % 4 for row in range(NUM_ROWS)]
"""Of each row; red has two fifths."""


def write(folder, labels=LABELS, **options):
    write_corpus(
        folder,
        random_rows(NUM_ROWS),
        encoding={"name": "classification", "labels": list(labels)},
        columns=COLUMNS,
        values=[{"label": label, "second": row} for row, label in enumerate(CLASSES)],
        **options,
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("subset"))


def part(folder, subset=SUBSET, **options) -> CorpusPart:
    return CorpusPart(str(folder), label_subset=subset, **options)


def columns_of(corpus) -> dict[str, list[int]]:
    return corpus.read_columns(np.arange(len(corpus))).to_pydict()


def test_the_rows_are_those_of_the_classes_and_labels_count_them_in_the_corpuss_order(folder):
    corpus, whole = open_mixture([part(folder)]), Corpus.open(str(folder))
    numbers = [row for row, label in enumerate(CLASSES) if LABELS[label] in SUBSET]
    assert corpus.encoding.labels == ("green", "pink")
    found = columns_of(corpus)
    assert found["second"] == numbers
    assert [corpus.encoding.labels[label] for label in found["label"]] == [LABELS[CLASSES[row]] for row in numbers]
    assert corpus.lengths[:].tolist() == whole.lengths[numbers].tolist()
    assert corpus.located(np.arange(len(corpus)))[1].tolist() == numbers
    assert corpus.encoding.num_rows == len(numbers)


def test_batches_have_labels_of_the_subset(folder):
    spec = FeedSpec.make([part(folder)], {"name": "classification"}, {"name": "finetune"}, seed=1)
    batch = BatchBuilder(spec).batch(np.arange(60), epoch=0, step=0)
    assert set(batch["labels"].tolist()) == {0, 1}
    numbers = columns_of(open_mixture([part(folder)]))["second"][:60]
    wanted = [SUBSET[::-1].index(LABELS[CLASSES[number]]) for number in numbers]
    assert batch["labels"].tolist() == wanted
    validation = list(validation_batches(spec, micro_batch_size=64))
    assert sum(batch.num_rows for batch in validation) == len(open_mixture([part(folder)]))


def test_the_order_in_which_classes_are_named_does_not_matter_but_which_they_are_does(folder):
    first, turned = (open_mixture([part(folder, subset)]).hash for subset in (SUBSET, SUBSET[::-1]))
    assert first == turned
    others = [open_mixture([part(folder, ("green", "blue"))]).hash, Corpus.open(str(folder)).hash]
    assert len({first, *others}) == 3
    assert len(open_cached((part(folder),), first)) == 100
    with pytest.raises(ValueError, match="changed: its hash is"):
        open_cached((part(folder),), others[0])


def test_a_few_rows_of_each_class_are_those_of_the_whole_corpus(folder):
    few = open_mixture([part(folder, few_shot=8, seed=3)])
    found = columns_of(few)
    assert Counter(found["label"]) == {0: 8, 1: 8}
    of_all = columns_of(open_mixture([CorpusPart(str(folder), few_shot=8, seed=3)]))
    assert set(found["second"]) < set(of_all["second"])


def test_a_weight_takes_a_share_of_the_classes_rows_or_repeats_them(folder):
    once = set(columns_of(open_mixture([part(folder)]))["second"])
    half = columns_of(open_mixture([part(folder, weight=0.5)]))["second"]
    assert len(half) == len(set(half)) == 50
    assert set(half) < once
    assert Counter(Counter(columns_of(open_mixture([part(folder, weight=2)]))["second"]).values()) == {2: 100}


def test_corpora_of_other_classes_mix_where_their_subsets_are_the_same(folder, tmp_path):
    other = write(tmp_path, ["pink", "grey", "green", "black"])
    with pytest.raises(ValueError, match=r"has the classes green, pink, .* has pink, green; corpora that are mixed"):
        open_mixture([CorpusPart(str(other), label_subset=SUBSET), part(folder)])
    other = write(tmp_path / "turned", ["green", "grey", "black", "pink"])
    mixed = open_mixture([part(folder), part(other)])
    labels = columns_of(mixed)["label"]
    rows = sum(name in SUBSET for name in (["green", "grey", "black", "pink"][label] for label in CLASSES))
    assert len(mixed) == 100 + rows
    assert Counter(labels[100:]) == {0: CLASSES.count(0), 1: CLASSES.count(3)}


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (
            ("green", "grey"),
            r"label_subset has 'grey', which corpus '.*' lacks; its classes are red, green, blue, pink",
        ),
        (("green",), "label_subset is green; give two or more different classes, or none"),
        (("green", "green"), "label_subset is green, green; give two or more different classes, or none"),
    ],
)
def test_a_wrong_subset_is_refused_in_one_line(folder, subset, message):
    with pytest.raises(ValueError, match=message):
        open_mixture([part(folder, subset)])


def test_classes_that_no_row_has_are_refused(tmp_path):
    write_corpus(
        tmp_path,
        random_rows(3),
        encoding={"name": "classification", "labels": LABELS},
        columns=COLUMNS,
        values=[{"label": 0, "second": 1}] * 3,
    )
    with pytest.raises(ValueError, match=r"label_subset is pink, green, but corpus .* has no row of these classes"):
        open_mixture([part(tmp_path)])


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_corpus_without_a_class_for_each_row_is_refused(tmp_path, dtype):
    columns = {"label": Column(dtype)} if dtype else None
    write_corpus(tmp_path, random_rows(3), columns=columns, values=[{"label": 0.5}] * 3)
    with pytest.raises(ValueError, match="label_subset"):
        open_mixture([part(tmp_path)])


@pytest.mark.parametrize("names", [["green"], [], ["green", "green"]])
def test_a_key_with_fewer_than_two_classes_is_refused(names):
    with pytest.raises(ValueError, match="label_subset"):
        CorpusRef(corpus="c", label_subset=names)
