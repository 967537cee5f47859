import pytest

from raydistill.config import overrides

RAW = {
    "name": "job",
    "scaling": {"num_workers": 1},
    "stages": {
        "corpus": {"kind": "binarize", "source": {"name": "text", "files": ["a", "b"]}},
        "adapt": {"kind": "train", "method": "finetune", "training": {"batch_size": 8}},
        "distill": {"kind": "train", "method": {"name": "causal"}, "teachers": ["adapt", "other"]},
    },
}
TOP_LEVEL = ["name", "scaling", "stages", "seed"]
KEYS = {
    "corpus": ["source", "source.files"],
    "adapt": ["method", "method.name", "training", "training.batch_size"],
    "distill": ["method", "method.name", "method.temperature", "training", "training.batch_size", "teachers"],
}


def accepts(stage, path):
    return ".".join(path) in KEYS[stage]


def apply(*assignments):
    return overrides.apply(RAW, overrides.parse(assignments), top_level=TOP_LEVEL, accepts=accepts)


def test_a_path_from_the_top_is_taken_as_it_is():
    assert apply("scaling.num_workers=2")["scaling"] == {"num_workers": 2}
    assert apply("stages.distill.method.temperature=4")["stages"]["distill"]["method"]["temperature"] == 4


def test_a_path_may_start_with_a_stage():
    assert apply("adapt.training.batch_size=32")["stages"]["adapt"]["training"] == {"batch_size": 32}


def test_a_path_that_one_stage_takes_needs_no_stage():
    changed = apply("method.temperature=4")
    assert changed["stages"]["distill"]["method"] == {"name": "causal", "temperature": 4}
    assert changed["stages"]["adapt"] == RAW["stages"]["adapt"]


def test_a_path_that_several_stages_take_lists_them():
    with pytest.raises(ValueError, match=r"write adapt\.training\.batch_size or distill\.training\.batch_size$"):
        apply("training.batch_size=1")


def test_a_path_that_no_stage_takes_names_the_stages_with_that_section():
    with pytest.raises(ValueError, match=r"method\.temprature is a key of none of the stages adapt, distill"):
        apply("method.temprature=1")


def test_a_misspelt_stage_is_offered_the_closest_one():
    with pytest.raises(ValueError, match="did you mean 'distill'"):
        apply("distil.training.batch_size=1")


def test_a_misspelt_key_of_the_job_is_offered_the_closest_one():
    with pytest.raises(ValueError, match="the key is 'sed'; did you mean 'seed'"):
        apply("sed=1")


def test_values_are_read_as_yaml():
    values = overrides.parse(["a=1e-4", "b=[1, 2]", "c={x: y}", "d=", "e=true", "f=a=b"])
    assert values == {"a": 1e-4, "b": [1, 2], "c": {"x": "y"}, "d": None, "e": True, "f": "a=b"}


@pytest.mark.parametrize("assignment", ["training.batch_size", "=3", "a..b=3", ".a=3", "a b=3"])
def test_what_is_no_assignment_is_refused(assignment):
    with pytest.raises(ValueError, match=r"write dotted\.key=value"):
        overrides.parse([assignment])


def test_a_value_that_is_no_yaml_is_refused_with_its_key():
    with pytest.raises(ValueError, match=r"^the value of a\.b, line 1"):
        overrides.parse(["a.b=[1"])


def test_a_number_picks_a_list_item():
    assert apply("corpus.source.files.1=c")["stages"]["corpus"]["source"]["files"] == ["a", "c"]


def test_a_number_past_the_end_of_a_list_is_refused_with_the_range():
    with pytest.raises(ValueError, match=r"files\.2 is not an item of .*; write a number from 0 to 1"):
        apply("corpus.source.files.2=c")


def test_a_one_word_section_is_written_out_before_its_option_is_set():
    stages = apply("adapt.method.smoothing=1", "distill.teachers.0.placement=zero3")["stages"]
    assert stages["adapt"]["method"] == {"name": "finetune", "smoothing": 1}
    assert stages["distill"]["teachers"] == [{"checkpoint": "adapt", "placement": "zero3"}, "other"]


def test_a_path_through_a_number_is_refused():
    with pytest.raises(ValueError, match=r"scaling\.num_workers is 1, which has no keys; remove \.x"):
        apply("scaling.num_workers.x=1")


def test_what_is_given_does_not_change():
    before = repr(RAW)
    apply("method.temperature=4", "corpus.source.files.0=z", "scaling.num_workers=3")
    assert repr(RAW) == before


def test_places_that_share_an_object_are_changed_apart():
    shared = {"path": "a"}
    raw = {"stages": {"one": {"model": shared}, "two": {"model": shared}}}
    changed = overrides.apply(raw, {"one.model.path": "b"}, top_level=["stages"], accepts=accepts)
    assert changed["stages"] == {"one": {"model": {"path": "b"}}, "two": {"model": {"path": "a"}}}
