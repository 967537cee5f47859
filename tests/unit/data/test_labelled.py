"""Which parts of a corpus have labels."""

import pytest

from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.encoding import Recipe, _encode_split
from raydistill.data.input_splits import InputSplit, Place, is_unlabelled, of_part, unlabelled_parts
from toys.words import make_tokenizer

LABELS = ["red", "green"]


def encoding(**section):
    return EncodingSpec.parse(section)


@pytest.mark.parametrize(
    ("labelled", "without"), [("all", ()), ("validation", ("train",)), ("none", ("train", "validation"))]
)
def test_an_encoding_says_which_parts_have_labels(labelled, without):
    section = encoding(name="classification", labels=LABELS, labelled=labelled)
    assert unlabelled_parts(section) == without
    for number, part in enumerate(("train", "validation")):
        own = of_part(section, number)
        assert is_unlabelled(own.dump()) is (part in without)
        assert ("label" in own.columns) is (part not in without)
        assert own.dump() | {"labelled": labelled} == section.dump()


@pytest.mark.parametrize("section", [{"name": "mlm"}, {"name": "glue", "task": "rte"}])
def test_rows_of_other_tasks_have_what_their_task_needs(section):
    of_task = encoding(**section)
    assert unlabelled_parts(of_task) == ()
    assert of_part(of_task, 0) == of_task


def test_texts_of_one_source_have_labels_where_they_are_validation(tmp_path):
    lines = [f"w{5 + number} w7\t{LABELS[number % 2]}" for number in range(40)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines))
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    source = SourceSpec.parse(
        {"name": "delimited", "path": str(tmp_path / "texts.tsv"), "header": False, "text": 0, "label": 1}
    )
    recipe = Recipe(
        sources=[source],
        encoding=encoding(name="classification", labels=LABELS, labelled="validation"),
        files={path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()},
        seed=0,
        texts_per_block=100,
    )
    [item] = source.items()
    start = Place(0, 0)
    blocks = list(_encode_split(InputSplit(0, 0, 1.0, item, validation=0.5), recipe, {0: start, 1: start}))
    assert [block.part for block in blocks] == [0, 1]
    train, validation = (block.values.to_pydict() for block in blocks)
    assert list(train) == ["second"]
    assert sum(len(block.lengths) for block in blocks) == 40
    firsts = [ids[1] - 5 for ids in blocks[1].ids.reshape(-1, 4).tolist()]
    assert len(firsts) > 5
    assert validation["label"] == [number % 2 for number in firsts]


def test_a_block_of_long_texts_has_fewer_of_them_and_the_parts_the_same_rows(tmp_path, monkeypatch):
    lines = [f"w{5 + number} w7" for number in range(40)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    source = SourceSpec.parse({"name": "text", "path": str(tmp_path / "texts.txt"), "unit": "line"})
    files = {path.name: path.read_bytes() for path in (tmp_path / "tokenizer").iterdir()}
    recipe = Recipe([source], encoding(name="mlm", min_length=2), files, 0, texts_per_block=15)
    [item] = source.items()
    split = InputSplit(0, 0, 1.0, item, validation=0.5)

    def blocks():
        return list(_encode_split(split, recipe, {0: Place(0, 0), 1: Place(0, 0)}))

    whole = blocks()
    monkeypatch.setattr("raydistill.data.encoding._BLOCK_CHARACTERS", 20)
    small = blocks()
    assert len({block.place for block in whole}) == 3
    assert len({block.place for block in small}) > 8
    for part in (0, 1):
        expected, found = (
            [one for block in made if block.part == part for one in block.ids] for made in (whole, small)
        )
        assert found == expected
