import pytest

from raydistill.config.sections import CorpusRef
from raydistill.stages import _corpora
from raydistill.stages._base import CorpusFacts, Input
from raydistill.tasks._base import Column
from toys.corpus import random_rows, write_corpus


@pytest.mark.parametrize("parts", [_corpora.train_parts, _corpora.validation_parts])
def test_a_changed_corpus_is_refused_by_name_before_it_is_used(tmp_path, parts):
    for part in ("train", "validation"):
        write_corpus(tmp_path / "corpus" / part, random_rows(150))
    references = [CorpusRef(corpus="texts", weight=2)]
    [found] = parts(references, {"texts": tmp_path / "corpus"})
    assert found.uri.startswith(str(tmp_path / "corpus"))
    for part in ("train", "validation"):
        path = tmp_path / "corpus" / part / "shards/part-00001.parquet"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"part-00001\.parquet has SHA-256"):
        parts(references, {"texts": tmp_path / "corpus"})


def labelled(**facts) -> dict:
    """What a stage ``texts`` will make: classes of three names, unless told otherwise."""
    known = {"labels": ("a", "b", "c"), "columns": {"label": Column("int64")}, **facts}
    return {"texts": Input(CorpusFacts("classification", 61, 40, **known))}


def test_few_rows_are_forecast_for_each_class_and_all_where_none_are_asked_for():
    few = _corpora.facts_of([CorpusRef(corpus="texts", few_shot=4, weight=2)], labelled())
    assert (few.rows, few.tokens) == (24, None)
    known = labelled(rows=120, tokens=1000)
    assert _corpora.facts_of([CorpusRef(corpus="texts", few_shot=4)], known).tokens == 100
    assert _corpora.facts_of([CorpusRef(corpus="texts")], known).rows == 120


@pytest.mark.parametrize("facts", [{"labels": ()}, {"columns": {"label": Column("int64", "token")}}])
def test_few_rows_of_a_corpus_without_classes_are_refused_before_it_is_made(facts):
    with pytest.raises(ValueError, match="few_shot is 4, but corpus 'texts' has no class for each row; leave it out"):
        _corpora.facts_of([CorpusRef(corpus="texts", few_shot=4)], labelled(**facts))


def test_few_rows_are_drawn_by_the_seed_for_training_alone(tmp_path):
    for part in ("train", "validation"):
        write_corpus(tmp_path / part, random_rows(5))
    references = [CorpusRef(corpus=str(tmp_path), few_shot=4)]
    [drawn] = _corpora.train_parts(references, {}, seed=7)
    assert (drawn.few_shot, drawn.seed) == (4, 7)
    for parts in (_corpora.train_parts(references, {}), _corpora.validation_parts(references, {})):
        assert parts[0].few_shot is None


def test_a_folder_with_validation_rows_alone_is_told_apart(tmp_path):
    write_corpus(tmp_path / "validation", random_rows(5))
    found = _corpora.facts_of([CorpusRef(corpus=str(tmp_path))], {})
    assert (found.has_train, found.rows, found.validation_rows) == (False, None, 5)


SUBSET = ["c", "a"]


def write_classes(folder, classes, seed):
    columns = {"label": Column("int64")}
    values = [{"label": label} for label in classes]
    encoding = {"name": "classification", "labels": ["a", "b", "c"]}
    return write_corpus(folder, random_rows(len(classes), seed=seed), encoding=encoding, columns=columns, values=values)


def test_rows_of_some_classes_are_counted_in_a_corpus_that_is_there(tmp_path):
    train = write_classes(tmp_path / "train", [0, 1, 2, 2, 1], 0)
    write_classes(tmp_path / "validation", [1, 1, 0], 1)
    found = _corpora.facts_of([CorpusRef(corpus=str(tmp_path), label_subset=SUBSET)], {})
    assert (found.labels, found.rows, found.validation_rows) == (("a", "c"), 3, 1)
    assert found.tokens == sum(train.lengths[[0, 2, 3]])
    few = _corpora.facts_of([CorpusRef(corpus=str(tmp_path), label_subset=SUBSET, few_shot=1)], {})
    assert few.rows == 2


def test_rows_of_some_classes_are_known_later_where_the_corpus_is_not_there_yet():
    found = _corpora.facts_of([CorpusRef(corpus="texts", label_subset=SUBSET)], labelled(rows=120, validation_rows=9))
    assert (found.labels, found.rows, found.validation_rows) == (("a", "c"), None, None)
    few = CorpusRef(corpus="texts", label_subset=SUBSET, few_shot=4, weight=2)
    assert _corpora.facts_of([few], labelled(rows=120)).rows == 16


def test_a_subset_that_the_corpus_lacks_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="label_subset has 'd', which corpus 'texts' lacks; its classes are a, b, c"):
        _corpora.facts_of([CorpusRef(corpus="texts", label_subset=["a", "d"])], labelled())
    with pytest.raises(ValueError, match="label_subset is c, a, but corpus 'texts' has no class for each row; leave"):
        _corpora.facts_of([CorpusRef(corpus="texts", label_subset=SUBSET)], labelled(labels=()))


def test_corpora_are_read_as_one_by_their_subsets():
    earlier = {**labelled(), "more": labelled(labels=("c", "a", "d"))["texts"]}
    both = [CorpusRef(corpus="texts", label_subset=SUBSET), CorpusRef(corpus="more", label_subset=SUBSET)]
    with pytest.raises(ValueError, match=r"corpus 'more' has labels \('c', 'a'\), 'texts' has \('a', 'c'\)"):
        _corpora.facts_of(both, earlier)
    earlier["more"] = labelled(labels=("a", "x", "c"))["texts"]
    assert _corpora.facts_of(both, earlier).labels == ("a", "c")


def test_rows_of_other_classes_are_left_out_of_training_and_of_validation_rows(tmp_path):
    for part in ("train", "validation"):
        write_classes(tmp_path / part, [0, 1, 2], 0)
    references = [CorpusRef(corpus=str(tmp_path), label_subset=SUBSET)]
    for parts in (_corpora.train_parts(references, {}, seed=1), _corpora.validation_parts(references, {})):
        assert parts[0].label_subset == ("c", "a")
