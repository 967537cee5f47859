"""Rows in the ids of teacher tokenizers: as data tasks encode them, corpora keep them and batches have them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raydistill.batch import Batch, collate, encoded_as
from raydistill.config.named import EncodingSpec
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.corpus_building import _tokenizer_files
from raydistill.data.encoding import Recipe, _encoded, _Encoder
from raydistill.data.input_splits import Place
from raydistill.data.mixture import CorpusPart, open_mixture
from raydistill.data.packing import pack, unpack
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_tokenizers import FurtherTokenizer, further_columns, further_values
from raydistill.models.load import load_tokenizer
from raydistill.tasks import classification
from raydistill.tasks._base import Column, LabelledRow
from toys.encodings import (
    ENCODE,
    LETTERS_PAD,
    LONGEST,
    NUM_LETTERS,
    make_letters,
    toy_examples,
    write_encodings,
)
from toys.words import make_tokenizer

TASK = {"name": "classification"}
SHORTER = classification.EncodeConfig(labels=ENCODE.labels, max_length=LONGEST)


@pytest.fixture(scope="module", params=[False, True], ids=["texts", "pairs"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], Corpus]:
    examples = toy_examples(150, pairs=request.param)
    return examples, write_encodings(tmp_path_factory.mktemp("encodings") / "corpus", examples)


def built(corpus: Corpus, rows: list[int], **options: object) -> Batch:
    spec = FeedSpec.make(corpus.uri, TASK, None, seed=0, **options)
    return BatchBuilder(spec).batch(np.array(rows), epoch=0, step=0)


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "uint32")]
)
def test_ids_are_kept_in_the_smallest_unsigned_type_that_holds_the_vocabulary(vocab_size: int, dtype: str) -> None:
    assert further_columns([40, vocab_size]) == {
        "input_ids_1": Column("uint8", "list"),
        "second_1": Column("int32"),
        "input_ids_2": Column(dtype, "list"),
        "second_2": Column("int32"),
    }


def test_an_id_outside_the_vocabulary_and_an_empty_row_are_refused() -> None:
    row = LabelledRow(np.array([2, 16]), {"second": 2})
    assert further_values(row, 3, vocab_size=17) == {"input_ids_3": row.ids, "second_3": 2}
    with pytest.raises(ValueError, match="teacher tokenizer 3 gave id 16 but its vocabulary has 16 entries; repair"):
        further_values(row, 3, vocab_size=16)
    with pytest.raises(ValueError, match="an example has no token in teacher tokenizer 3; leave empty texts out"):
        further_values(LabelledRow(np.empty(0, dtype=np.int64), {"second": 0}), 3, vocab_size=16)


def test_a_batch_has_the_rows_as_the_further_tokenizer_cuts_and_pads_them(written: tuple[list[dict], Corpus]) -> None:
    examples, corpus = written
    rows = [140, 3, 77, 12]
    batch = built(corpus, rows, encodings=[1])
    found = encoded_as(batch, 1)
    cut = classification.cut([examples[row] for row in rows], make_letters(), SHORTER)
    expected = collate([row.ids for row in cut], rows, pad_id=LETTERS_PAD)
    assert found["input_ids"].shape[1] == LONGEST
    for name, column in expected.columns.items():
        assert torch.equal(found[name], column), name
        assert found[name].dtype == column.dtype
    assert torch.equal(found["labels"], batch["labels"])
    is_pair = "text_pair" in examples[0]
    assert ("token_types" in found) == is_pair
    if is_pair:
        types = [int(place >= row.values["second"]) for row in cut for place in range(len(row.ids))]
        assert found["token_types"].tolist() == types


def test_a_batch_is_the_same_as_without_teacher_tokenizers_but_for_the_columns_asked_for(
    written: tuple[list[dict], Corpus], tmp_path: Path
) -> None:
    examples, corpus = written
    alone = built(write_encodings(tmp_path / "alone", examples, further=False), [5, 9])
    unasked, asked = built(corpus, [5, 9]), built(corpus, [5, 9], encodings=[0, 1])
    assert unasked.columns.keys() == alone.columns.keys()
    assert {name for name in asked.columns if not name.startswith("encoding_1_")} == alone.columns.keys()
    assert all(torch.equal(asked[name], column) for name, column in alone.columns.items())


def test_batches_of_an_encoding_survive_the_way_to_the_worker(written: tuple[list[dict], Corpus]) -> None:
    batch = built(written[1], [1, 2, 3], encodings=[1])
    [found] = unpack(pack([batch]))
    assert found.columns.keys() == batch.columns.keys()
    assert all(torch.equal(found[name], column) for name, column in batch.columns.items())


def test_specs_of_other_encodings_build_with_builders_of_their_own(written: tuple[list[dict], Corpus]) -> None:
    specs = [FeedSpec.make(written[1].uri, TASK, None, seed=0, encodings=found) for found in ([], [1], [1, 0, 1])]
    assert specs[0].key != specs[1].key == specs[2].key


def test_a_corpus_tells_and_carries_its_teacher_tokenizers(written: tuple[list[dict], Corpus]) -> None:
    corpus = written[1]
    info = corpus.tokenizers[1]
    assert (info.vocab_size, info.max_length, info.pad_id) == (NUM_LETTERS, LONGEST, LETTERS_PAD)
    assert (
        tokenizer_hash(load_tokenizer(Path(corpus.uri) / "tokenizer_1")) == info.hash == tokenizer_hash(make_letters())
    )
    assert corpus.tokenizers[0].hash == tokenizer_hash(make_tokenizer()) != info.hash
    corpus.verify()


def test_a_changed_file_of_a_further_tokenizer_is_refused(tmp_path: Path) -> None:
    corpus = write_encodings(tmp_path / "corpus", toy_examples(5))
    file = tmp_path / "corpus" / "tokenizer_1" / "tokenizer.json"
    file.write_bytes(file.read_bytes().replace(b"[UNK]", b"[unk]"))
    with pytest.raises(ValueError, match=r"tokenizer_1/tokenizer\.json has SHA-256"):
        Corpus.open(corpus.uri).verify()


def test_a_corpus_from_before_there_were_teacher_tokenizers_still_opens(tmp_path: Path) -> None:
    corpus = write_encodings(tmp_path / "corpus", toy_examples(5), further=False)
    manifest = tmp_path / "corpus" / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    assert content.pop("teacher_tokenizers") == []
    manifest.write_text(json.dumps(content), encoding="utf-8")
    opened = Corpus.open(corpus.uri)
    assert opened.tokenizers == (opened.manifest.tokenizer,)
    assert built(opened, [2])["labels"].shape == (1,)


def test_corpora_with_other_teacher_tokenizers_cannot_be_mixed(tmp_path: Path) -> None:
    parts = [
        CorpusPart(write_encodings(tmp_path / str(further), toy_examples(8), further=further).uri)
        for further in (True, False)
    ]
    with pytest.raises(ValueError, match=r"has teacher tokenizers with hashes .*corpora that are mixed must agree"):
        open_mixture(parts)
    twice = open_mixture([parts[0], parts[0]])
    assert twice.tokenizers == Corpus.open(parts[0].uri).tokenizers


def test_data_tasks_encode_each_example_with_every_tokenizer() -> None:
    examples = toy_examples(20, pairs=True)
    further = FurtherTokenizer(_tokenizer_files(make_letters()), NUM_LETTERS, LONGEST)
    recipe = Recipe(
        sources=[],
        encoding=EncodingSpec("classification", replace(ENCODE, max_length=40)),
        files=_tokenizer_files(make_tokenizer()),
        seed=0,
        texts_per_block=7,
        further=[further],
    )
    block = _encoded(examples, examples, Place(0, 0), _Encoder(recipe, part=0))
    words, letters = (
        classification.cut(examples, tokenizer, config)
        for tokenizer, config in ((make_tokenizer(), ENCODE), (make_letters(), SHORTER))
    )
    assert block.ids.tolist() == [number for row in words for number in row.ids]
    assert block.values.column("input_ids_1").to_pylist() == [row.ids.tolist() for row in letters]
    assert block.values.column("second_1").to_pylist() == [row.values["second"] for row in letters]
    assert block.values.column("second").to_pylist() == [row.values["second"] for row in words]
    assert block.values.schema.field("input_ids_1").type.value_type == "uint8"
