import numpy as np
import pyarrow as pa
import pytest

from raydistill.data.corpus import Corpus
from raydistill.data.corpus_writer import CorpusWriter
from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.data.row_columns import digest_of, schema_of, table_of, tensors_of
from raydistill.tasks._base import Column
from toys.corpus import random_rows, write_corpus

COLUMNS = {
    "label": Column("int64"),
    "score": Column("float32"),
    "tags": Column("int16", "token"),
    "codes": Column("int32", "list"),
}


def values_of(row_id, length):
    return {
        "label": row_id * 3,
        "score": row_id / 4,
        "tags": np.arange(length) + row_id,
        "codes": np.arange(row_id % 3),
    }


def written(folder, num_rows=2_345, **options):
    rows = random_rows(num_rows)
    values = [values_of(number, len(row)) for number, row in enumerate(rows)]
    return rows, values, write_corpus(folder, rows, columns=COLUMNS, values=values, **options)


def test_values_come_back_in_the_order_asked_for_over_shards_and_row_groups(tmp_path):
    rows, values, corpus = written(tmp_path / "c", rows_per_shard=1_200)
    wanted = [2_344, 0, 1_199, 1_200, 999, 1_000, 0, 17]
    table = corpus.read_columns(wanted)
    assert table.column("label").to_pylist() == [3 * row for row in wanted]
    assert table.column("tags").to_pylist() == [values[row]["tags"].tolist() for row in wanted]
    assert table.column("codes").to_pylist() == [list(range(row % 3)) for row in wanted]
    assert [ids.tolist() for ids in corpus.read_rows(wanted)] == [rows[row].tolist() for row in wanted]
    assert corpus.columns == COLUMNS
    assert corpus.encoding.num_rows == 2_345


def test_a_batch_has_a_value_a_row_values_of_tokens_end_to_end_and_lists_with_lengths():
    table = table_of([values_of(row, length) for row, length in ((4, 3), (5, 2))], COLUMNS)
    found = tensors_of(table.slice(0), COLUMNS)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "label": [12, 15],
        "score": [1.0, 1.25],
        "tags": [4, 5, 6, 5, 6],
        "codes": [0, 0, 1],
        "codes_lengths": [1, 2],
    }
    assert tensors_of(table.slice(1), COLUMNS)["tags"].tolist() == [5, 6]


def test_a_mixture_reads_values_of_its_parts(tmp_path):
    _, _, first = written(tmp_path / "a", 30)
    _, _, second = written(tmp_path / "b", 20)
    mixture = open_mixture([CorpusPart(first.uri), CorpusPart(second.uri, 2.0)])
    assert mixture.read_columns([0, 31, 29, 52]).column("label").to_pylist() == [0, 3, 87, 6]


def test_parts_with_other_columns_cannot_be_mixed(tmp_path):
    _, _, first = written(tmp_path / "a", 30)
    second = write_corpus(tmp_path / "b", random_rows(5))
    with pytest.raises(ValueError, match=r"has columns \{\}, corpus .* has \{'label'"):
        open_mixture([CorpusPart(first.uri), CorpusPart(second.uri)])


def test_values_that_were_changed_on_disk_are_refused(tmp_path):
    _, _, corpus = written(tmp_path / "c", 50)
    table = corpus.read_columns(range(50))
    digest = digest_of(table)
    changed = table.set_column(0, "label", pa.array([1, *table.column("label").to_pylist()[1:]]))
    assert digest_of(changed) != digest
    reader = Corpus.open(corpus.uri)
    reader._reader(0)._column_digests[0] = digest_of(changed)
    with pytest.raises(ValueError, match="has other values than those that were written"):
        reader.read_columns([3])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "values are none; the corpus takes 1 of label, score, tags, codes"),
        ([{**values_of(0, 3), "tags": [1, 2]}], "column 'tags' has not one value for each token"),
    ],
)
def test_values_that_do_not_fit_are_refused(values, message, tmp_path):
    table = None if values is None else table_of(values, COLUMNS)
    with (
        CorpusWriter(str(tmp_path / "c"), vocab_size=61, columns=COLUMNS) as writer,
        pytest.raises(ValueError, match=message),
    ):
        writer.add(np.array([2, 5, 3]), np.array([3], dtype=np.int32), values=table)


def test_the_schema_keeps_the_order_of_columns():
    assert schema_of(COLUMNS).names == list(COLUMNS)
