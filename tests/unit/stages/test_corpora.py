import pytest

from raydistill.config.sections import CorpusRef
from raydistill.stages import _corpora
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
