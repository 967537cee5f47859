import pickle
from collections import Counter

import numpy as np

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.corpus import Corpus
from raydistill.data.corpus_building import binarize
from raydistill.data.input_splits import WeightedSource
from toys.checkpoint import toy_tokenizer

UNK, CLS, SEP = 1, 2, 3
MAX_LENGTH = 32


def published_rows(sequences: list[list[int]]) -> list[list[int]]:
    """What the published ``LmSeqsDataset`` keeps of a list: split long, drop short, drop unknown, written from it."""
    rows = []
    for sequence in sequences:
        chunks = [sequence]
        if len(sequence) > MAX_LENGTH:
            step = MAX_LENGTH - 2
            chunks = [sequence[place : place + step] for place in range(0, len(sequence), step)]
            chunks = [chunk if chunk[0] == CLS else [CLS, *chunk] for chunk in chunks]
            chunks = [chunk if chunk[-1] == SEP else [*chunk, SEP] for chunk in chunks]
        rows += chunks
    rows = [row for row in rows if len(row) > 11]
    return [row for row in rows if row.count(UNK) / len(row) < 0.5]


def test_a_published_pickle_is_binarized_by_the_published_rules_and_lines_left_out_are_counted(ray_cluster, tmp_path):
    toy_tokenizer().save_pretrained(tmp_path / "tokenizer")
    generator = np.random.default_rng(0)
    sequences = [[CLS, *generator.integers(5, 61, length).tolist(), SEP] for length in generator.integers(0, 100, 300)]
    for sequence in sequences[::10]:
        sequence[1 : 1 + len(sequence) // 2] = [UNK] * len(sequence[1 : 1 + len(sequence) // 2])
    counts = Counter(token for sequence in sequences for token in sequence)
    with (tmp_path / "binarized_text.train.toy.pickle").open("wb") as file:
        pickle.dump([np.array(sequence, dtype=np.uint16) for sequence in sequences], file, pickle.HIGHEST_PROTOCOL)
    with (tmp_path / "token_counts.pickle").open("wb") as file:
        pickle.dump([counts[token] for token in range(61)], file, pickle.HIGHEST_PROTOCOL)
    sentence = " ".join(f"w{number}" for number in range(5, 20))
    (tmp_path / "rows.tsv").write_text(f"id\ttext\n0\t{sentence}\n1\n2\t{sentence}\n")
    source = SourceSpec.parse
    sections = [
        {
            "name": "legacy_pickle",
            "path": f"{tmp_path}/binarized_text.*.pickle",
            "token_counts": f"{tmp_path}/token_counts.pickle",
        },
        {"name": "delimited", "path": f"{tmp_path}/rows.tsv", "text": -1, "short_lines": "skip"},
    ]
    summary = binarize(
        sources=[WeightedSource(source(section)) for section in sections],
        encoding=EncodingSpec.parse({"name": "mlm", "max_length": MAX_LENGTH}),
        tokenizer_folder=str(tmp_path / "tokenizer"),
        output=str(tmp_path / "out"),
        validation=0,
        token_counts=f"{tmp_path}/token_counts.pickle",
    )
    corpus = Corpus.open(str(tmp_path / "out" / "train"))
    rows = Counter(tuple(row.tolist()) for row in corpus.read_rows(range(len(corpus))))
    expected = Counter(map(tuple, published_rows(sequences)))
    assert rows == expected + Counter({(CLS, *range(5, 20), SEP): 2})
    assert summary["texts"] == 302
    assert summary["dropped"]["short line"] == 1
    # Those of all sequences, as published, and not of the rows alone.
    assert corpus.token_counts.tolist() == [counts[token] for token in range(61)]
    assert corpus.manifest.tokens < sum(counts.values())
    assert summary["dropped"]["short"] > 0 < summary["dropped"]["unknown"]
