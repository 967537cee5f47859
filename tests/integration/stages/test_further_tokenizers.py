"""A corpus in the ids of two tokenizers, as a stage writes it by data tasks."""

from pathlib import Path

import pytest

from raydistill.config.sections import ScalingConfig
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.stages.binarize import Config, Stage
from raydistill.tasks import classification
from toy_capture import context_of
from toy_classifiers import CLASSES
from toy_encodings import LONGEST, NUM_LETTERS, make_letters, save_letters, save_words, toy_examples

EXAMPLES = toy_examples(90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    """Both models, and a corpus that a binarize stage wrote."""
    found = tmp_path_factory.mktemp("two-tokenizers")
    save_words(found / "words")
    save_letters(found / "letters")
    lines = ["text\tlabel", *(f"{example['text']}\t{example['label']}" for example in EXAMPLES)]
    (found / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "kind": "binarize",
        "source": {"name": "delimited", "path": str(found / "texts.tsv"), "label": "label"},
        "encoding": {"name": "classification", "labels": list(CLASSES), "max_length": LONGEST},
        "tokenizer": str(found / "words"),
        "further_tokenizers": [str(found / "letters")],
        "held_out": 0.2,
        "rows_per_shard": 40,
    }
    stage = Stage("corpus", Config.model_validate(config))
    stage.check(ScalingConfig(), {})
    stage.run(context_of(stage, found / "corpus"))
    return found


def test_each_text_is_encoded_by_both_tokenizers(folder: Path) -> None:
    config = classification.EncodeConfig(labels=CLASSES, max_length=LONGEST)
    found = 0
    for part in ("train", "held_out"):
        corpus = Corpus.open(str(folder / "corpus" / part))
        corpus.verify()
        info = corpus.tokenizers[1]
        assert (info.hash, info.vocab_size) == (tokenizer_hash(make_letters()), NUM_LETTERS)
        # In words no text is cut, and each id is the number of its word.
        texts = [" ".join(f"w{number}" for number in row[1:-1]) for row in corpus.read_rows(range(len(corpus)))]
        labels = corpus.read_columns(range(len(corpus))).column("label").to_pylist()
        examples = [{"text": text, "label": CLASSES[label]} for text, label in zip(texts, labels, strict=True)]
        assert all(example in EXAMPLES for example in examples)
        letters = classification.cut(examples, make_letters(), config)
        ids = corpus.read_columns(range(len(corpus))).column("input_ids_1").to_pylist()
        assert ids == [row.ids.tolist() for row in letters]
        found += len(ids)
    assert found == len(EXAMPLES)
