import pytest

from raydistill.config.errors import error_lines
from raydistill.config.schema import has_key
from raydistill.stages.binarize import Config, Stage

TEXT = {"name": "text", "path": "a.txt"}


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


@pytest.mark.parametrize("keys", [{"source": TEXT}, {"sources": [{"source": TEXT, "weight": 2.0}]}])
def test_a_resolved_configuration_is_read_again(keys):
    resolved = config(**keys).model_dump(mode="json")
    assert config(**resolved).model_dump(mode="json") == resolved


def test_sources_take_dotted_keys():
    assert has_key(Config, ["sources", "0", "weight"], {"sources": [{"source": TEXT}]}) is True
    assert has_key(Config, ["source", "path"], {"source": TEXT}) is True
    assert has_key(Config, ["sources", "0", "source", "nothing"], {"sources": [{"source": TEXT}]}) is False


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
