"""Classes that are found in the data, and classes that are written as numbers."""

from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.config.sections import CorpusRef, ModelRef, ScalingConfig
from raydistill.stages import binarize
from raydistill.stages._base import CorpusFacts
from toys.capture import context_of
from toys.words import make_tokenizer

FOUND = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer, sentences to train on, and ones to validate on with a tag that the others lack."""
    make_tokenizer().save_pretrained(tmp_path / "model")
    BertConfig(vocab_size=61, max_position_embeddings=40).save_pretrained(tmp_path / "model")
    (tmp_path / "train.txt").write_text("w5 I-PER\nw6 B-PER\n\nw7 O\nw8 B-LOC\n")
    (tmp_path / "test.txt").write_text("w5 I-LOC\nw6 O\n")
    return tmp_path


def stage(folder: Path, **changes: Any) -> binarize.Stage:
    keys = {
        "kind": "binarize",
        "source": {"name": "conll", "path": str(folder / "train.txt")},
        "validation": {"name": "conll", "path": str(folder / "test.txt")},
        "encoding": {"name": "ner", "labels": "auto"},
        "tokenizer": str(folder / "model"),
        **changes,
    }
    return binarize.Stage("corpus", binarize.Config.model_validate(keys))


def test_tags_are_those_of_all_sources_and_the_plan_says_them(folder: Path) -> None:
    decisions = stage(folder).plan(ScalingConfig(), {})
    assert isinstance(decisions.makes, CorpusFacts)
    assert decisions.makes.labels == FOUND
    assert decisions.lines[-1] == "labels found in the data: O, B-LOC, I-LOC, B-PER, I-PER"


def test_the_corpus_is_made_with_the_tags_that_were_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr(binarize, "binarize", lambda **options: made.update(options) or {})
    one = stage(folder)
    one.run(context_of(one, folder / "corpus"))
    assert made["encoding"] == EncodingSpec.parse({"name": "ner", "labels": list(FOUND)})


def test_tags_are_found_where_the_encoding_does_not_name_them_and_not_where_it_does(folder: Path) -> None:
    assert stage(folder, encoding="ner").plan(ScalingConfig(), {}).lines[-1].startswith("labels found in the data")
    named = stage(folder, encoding={"name": "ner", "labels": [*FOUND, "B-ORG"]}).plan(ScalingConfig(), {})
    assert isinstance(named.makes, CorpusFacts)
    assert named.makes.labels == (*FOUND, "B-ORG")
    assert "found" not in named.lines[-1]


def test_words_that_are_no_tags_are_refused_before_the_run_with_the_key(folder: Path) -> None:
    (folder / "test.txt").write_text("w5 PER\n")
    with pytest.raises(ValueError, match=r"^encoding\.labels is auto: labels has 'PER'; a tag is O"):
        stage(folder).plan(ScalingConfig(), {})
    (folder / "test.txt").write_text("w5 O B-PER\nw6\n")
    with pytest.raises(ValueError, match=r"^encoding\.labels is auto: validation: .*test\.txt line 2 has 1 columns"):
        stage(folder).plan(ScalingConfig(), {})


def test_data_that_change_make_another_corpus(folder: Path) -> None:
    before = stage(folder).identity(ScalingConfig())
    (folder / "test.txt").write_text("w5 I-ORG\nw6 O\n")
    assert stage(folder).identity(ScalingConfig()) != before


@pytest.mark.parametrize(
    ("labels", "encoded"),
    [
        ({1: "negative", 3: None, 5: "positive"}, ["negative", "positive"]),
        ({1: 0, 3: None, 5: 1}, [0, 1]),
        (None, [1, 3, 5]),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_classes_of_a_column_of_integers_may_be_written_as_integers(
    folder: Path, labels: Any, encoded: list[Any], ending: str
) -> None:
    written = {
        "csv": "text,stars\nw5,1\nw6,5\nw7,3\n",
        "jsonl": "".join(f'{{"text": "w{number}", "stars": {stars}}}\n' for number, stars in ((5, 1), (6, 5), (7, 3))),
    }
    (folder / f"rows.{ending}").write_text(written[ending])
    source = {"name": "delimited", "path": str(folder / f"rows.{ending}"), "label": "stars", "labels": labels}
    encoding = EncodingSpec.parse({"name": "classification", "labels": encoded, "max_length": 12})
    assert encoding.labels == tuple(map(str, encoded))
    spec = SourceSpec.parse(source)
    examples = [example for example in spec.read(spec.items()[0]) if "dropped" not in example]
    rows = encoding.cut(examples, make_tokenizer())
    assert [row.values["label"] for row in rows] == ([0, 2, 1] if labels is None else [0, 1])
    stage(folder, source=source, encoding=encoding.dump(), validation=0.5).plan(ScalingConfig(), {})


def test_classes_of_a_checkpoint_and_of_a_part_of_a_corpus_may_be_written_as_integers() -> None:
    assert CorpusRef.model_validate({"corpus": "c", "label_subset": [1, 5]}).label_subset == ["1", "5"]
    assert ModelRef.model_validate({"checkpoint": "m", "labels": [0, 1]}).labels == ["0", "1"]
    mapped = ModelRef.model_validate({"checkpoint": "m", "labels": {"LABEL_0": 1, 2: None}})
    assert mapped.labels == {"LABEL_0": "1", "2": None}
