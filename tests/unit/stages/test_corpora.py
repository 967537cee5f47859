import pytest

from raydistill.config.sections import CorpusRef
from raydistill.stages import _corpora
from raydistill.stages._base import CorpusForecast, Forecast
from raydistill.tasks._base import Column
from toy_corpus import random_rows, write_corpus


@pytest.mark.parametrize("parts", [_corpora.train_parts, _corpora.held_out_parts])
def test_a_changed_corpus_is_refused_by_name_before_it_is_used(tmp_path, parts):
    for part in ("train", "held_out"):
        write_corpus(tmp_path / "corpus" / part, random_rows(150))
    references = [CorpusRef(corpus="texts", weight=2)]
    [found] = parts(references, {"texts": tmp_path / "corpus"})
    assert found.uri.startswith(str(tmp_path / "corpus"))
    for part in ("train", "held_out"):
        path = tmp_path / "corpus" / part / "shards/part-00001.parquet"
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"part-00001\.parquet has SHA-256"):
        parts(references, {"texts": tmp_path / "corpus"})


def labelled(**facts) -> dict:
    """What a stage ``texts`` will make: classes of three names, unless told otherwise."""
    known = {"labels": ("a", "b", "c"), "columns": {"label": Column("int64")}, **facts}
    return {"texts": Forecast(corpus=CorpusForecast("classification", 61, 40, **known))}


def test_few_rows_are_forecast_for_each_class_and_all_where_none_are_asked_for():
    few = _corpora.forecast([CorpusRef(corpus="texts", few_shot=4, weight=2)], labelled())
    assert (few.rows, few.tokens) == (24, None)
    known = labelled(rows=120, tokens=1000)
    assert _corpora.forecast([CorpusRef(corpus="texts", few_shot=4)], known).tokens == 100
    assert _corpora.forecast([CorpusRef(corpus="texts")], known).rows == 120


@pytest.mark.parametrize("facts", [{"labels": ()}, {"columns": {"label": Column("int64", "token")}}])
def test_few_rows_of_a_corpus_without_classes_are_refused_before_it_is_made(facts):
    with pytest.raises(ValueError, match="few_shot is 4, but corpus 'texts' has no class for each row; leave it out"):
        _corpora.forecast([CorpusRef(corpus="texts", few_shot=4)], labelled(**facts))


def test_few_rows_are_drawn_by_the_seed_for_training_alone(tmp_path):
    for part in ("train", "held_out"):
        write_corpus(tmp_path / part, random_rows(5))
    references = [CorpusRef(corpus=str(tmp_path), few_shot=4)]
    [drawn] = _corpora.train_parts(references, {}, seed=7)
    assert (drawn.few_shot, drawn.seed) == (4, 7)
    for parts in (_corpora.train_parts(references, {}), _corpora.held_out_parts(references, {})):
        assert parts[0].few_shot is None


def test_a_folder_with_held_out_rows_alone_is_told_apart(tmp_path):
    write_corpus(tmp_path / "held_out", random_rows(5))
    found = _corpora.forecast([CorpusRef(corpus=str(tmp_path))], {})
    assert (found.has_train, found.rows, found.held_out_rows) == (False, None, 5)
