import pytest
from transformers import BertConfig

from raydistill.config.errors import error_lines
from raydistill.config.schema import has_key
from raydistill.config.sections import ScalingConfig
from raydistill.stages.binarize import Config, Stage
from raydistill.tasks._base import Column
from toys.words import make_tokenizer

TEXT = {"name": "text", "path": "a.txt"}
OTHER = {"name": "text", "path": "b.txt"}
GLUE = {"name": "glue", "task": "sst2"}


def config(**keys) -> Config:
    return Config.model_validate({"kind": "binarize", "tokenizer": "folder", **keys})


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({}, "give exactly one of source and sources"),
        ({"source": TEXT, "sources": [{"source": TEXT}]}, "give exactly one of source and sources"),
        ({"sources": [{"source": TEXT, "weight": 0}]}, "sources.0.weight is 0; it should be greater than 0"),
        ({"sources": [{"source": TEXT, "weight": float("inf")}]}, "sources.0.weight is inf; it should be a finite"),
        ({"sources": [{"source": {"name": "tex"}}]}, "sources.0.source.name is 'tex'; did you mean 'text'?"),
        ({"source": TEXT, "validation": 0}, "validation is 0; give a fraction between 0 and 1, or a source"),
        ({"source": TEXT, "validation": 1}, "validation is 1; give a fraction between 0 and 1, or a source"),
        ({"source": TEXT, "validation": True}, "validation is True; write the name of a source"),
        ({"source": TEXT, "validation": {"name": "tex"}}, "validation.name is 'tex'; did you mean 'text'?"),
        ({"source": TEXT, "validation": {**TEXT, "pth": "a"}}, "validation.pth is not an option of source text"),
        ({"source": TEXT, "validation": TEXT}, "validation is the source itself; name another split"),
        ({"sources": [{"source": TEXT}, {"source": OTHER}], "validation": OTHER}, "validation is the source itself"),
        ({"sources": [{"source": TEXT, "wieght": 1}]}, "sources.0.wieght is not an option; did you mean 'weight'?"),
    ],
)
def test_mistakes_in_sources_are_refused_in_one_line(keys, line):
    with pytest.raises(ValueError, match=r".") as refusal:
        config(**keys)
    [found] = error_lines(refusal.value)
    assert found.startswith(line)


def test_one_source_is_a_list_of_one_with_weight_1():
    [weighted] = config(source=TEXT).weighted_sources
    assert (weighted.source.dump()["path"], weighted.weight) == ("a.txt", 1.0)
    weights = [
        one.weight for one in config(sources=[{"source": TEXT}, {"source": TEXT, "weight": 2.5}]).weighted_sources
    ]
    assert weights == [1.0, 2.5]


@pytest.mark.parametrize(
    "keys",
    [
        {"source": TEXT},
        {"sources": [{"source": TEXT, "weight": 2.0}]},
        {"source": TEXT, "validation": OTHER},
        {"validation": OTHER},
        {"source": TEXT, "validation": 0.5},
    ],
)
def test_a_resolved_configuration_is_read_again(keys):
    resolved = config(**keys).model_dump(mode="json")
    assert config(**resolved).model_dump(mode="json") == resolved


def test_sources_take_dotted_keys():
    assert has_key(Config, ["sources", "0", "weight"], {"sources": [{"source": TEXT}]}) is True
    assert has_key(Config, ["source", "path"], {"source": TEXT}) is True
    assert has_key(Config, ["sources", "0", "source", "nothing"], {"sources": [{"source": TEXT}]}) is False
    assert has_key(Config, ["validation"], {"validation": 0.1}) is True
    assert has_key(Config, ["validation", "path"], {"validation": TEXT}) is True
    assert has_key(Config, ["validation", "path"], {"validation": 0.1}) is False


def test_the_identity_changes_with_a_weight_and_with_each_source(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("text")

    def identity(*weights: float) -> dict:
        sources = [
            {"source": {"name": "text", "path": str(tmp_path / f"{name}.txt")}, "weight": weight}
            for name, weight in zip("ab", weights, strict=False)
        ]
        return Stage("corpus", config(sources=sources)).identity(None)

    assert identity(1, 1) == identity(1, 1)
    assert identity(1, 1) != identity(1, 2)
    assert identity(1) != identity(1, 1)
    before = identity(1, 1)
    (tmp_path / "b.txt").write_text("other text")
    assert identity(1, 1) != before


def test_the_identity_changes_with_the_files_of_a_validation_source(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("text")
    source, validation = ({"name": "text", "path": str(tmp_path / f"{name}.txt")} for name in "ab")
    stage = Stage("corpus", config(source=source, validation=validation))
    before = stage.identity(None)
    assert before == stage.identity(None)
    (tmp_path / "b.txt").write_text("other text")
    assert before != stage.identity(None)


@pytest.fixture
def glue(tmp_path):
    """A folder with files of SST-2 and a tokenizer's checkpoint, and a function from keys to a stage's forecast."""
    make_tokenizer().save_pretrained(tmp_path / "model")
    BertConfig(vocab_size=61, max_position_embeddings=128).save_pretrained(tmp_path / "model")
    for name, label in (("train", 1), ("dev", 0)):
        (tmp_path / f"{name}.tsv").write_text(f"sentence\tlabel\nw5 w6\t{label}\n")

    def check(**keys):
        filled = {"encoding": {**GLUE, "max_length": 40}, "tokenizer": str(tmp_path / "model"), **keys}
        for key in ("source", "validation"):
            if key in filled:
                filled[key] = {**GLUE, "path": str(tmp_path), **filled[key]}
        return tmp_path, lambda: Stage("corpus", config(**filled)).plan(ScalingConfig(), {})

    return check


def test_the_preflight_lists_both_sources_and_forecasts_labels_and_columns(glue):
    _, check = glue(source={}, validation={"split": "validation"})
    forecast = check()
    assert forecast.lines == ["glue texts, glue texts held out, 61 ids, at most 40 tokens a row"]
    assert forecast.makes.labels == ("negative", "positive")
    assert forecast.makes.columns["label"] == Column("int64")
    assert forecast.makes.has_train
    _, check = glue(validation={"split": "validation"})
    assert not check().makes.has_train


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("train.tsv", "sentence\tlabel\nw5\t2\n", r"^source: .*train\.tsv line 2 has the label '2', which labels does"),
        ("dev.tsv", "sentence\tlabel\nw5\n", r"^validation: .*dev\.tsv line 2 has 1 fields, too few"),
        ("dev.tsv", None, r"^validation: path is .* has no split validation of sst2; looked for dev\.tsv"),
    ],
)
def test_labels_and_files_that_are_wrong_are_refused_before_the_run(glue, file, content, line):
    folder, check = glue(source={}, validation={"split": "validation"})
    check()
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(ValueError, match=line) as refusal:
        check()
    assert "\n" not in str(refusal.value)


def test_a_label_that_the_encoding_does_not_name_is_refused_before_the_run(glue):
    _, check = glue(
        source={}, validation={"split": "validation"}, encoding={"name": "glue", "task": "rte", "max_length": 9}
    )
    with pytest.raises(ValueError, match=r"^source: \S*train\.tsv line 2: an example has the label 'positive'; "):
        check()
