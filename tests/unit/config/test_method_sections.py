import json
import pickle

import pytest
from pydantic import ValidationError

from raydistill.config.named import MethodSpec
from raydistill.config.sections import Section
from raydistill.interventions.sites import load_mapping
from raydistill.methods import kd

MAPPING = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:2$H:1$[0:8]"], "student_variable_names": ["$L:1$H:0$[0:8]"]}
    ]
}
parse = MethodSpec.parse


class Holder(Section):
    method: MethodSpec


def test_a_mapping_file_becomes_part_of_the_section(tmp_path):
    path = tmp_path / "own.nm"
    path.write_text(json.dumps(MAPPING))
    section = parse({"name": "causal", "mapping": str(path)})
    path.unlink()
    again = parse(json.loads(json.dumps(section.dump())))
    assert again.config == section.config
    assert load_mapping(again.config.mapping) == load_mapping(MAPPING)


def test_a_spec_that_is_made_passes_through_sections_and_processes_as_it_is():
    spec = parse({"name": "kd", "temperature": 3})
    assert parse(spec) is spec
    assert Holder(method=spec).method is spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert Holder.model_validate({"method": {"name": "kd", "temperature": 3}}).method == spec


def test_a_spec_answers_for_its_method_with_its_options():
    assert parse("kd").requirements == kd.Method.requirements(kd.Config())
    assert parse("kd").distils
    assert not parse("finetune").distils


def test_a_preset_keeps_its_name():
    assert parse({"name": "causal", "mapping": "middle_6"}).dump()["mapping"] == "middle_6"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "mapping is missing while alpha_causal_ce or alpha_causal_cos is positive"),
        ({"mapping": "midle_6"}, "mapping is 'midle_6'; did you mean 'middle_6'"),
        ({"mapping": "middle_6", "site_offset": 2}, "site_offset is 2"),
    ],
)
def test_refusals_of_a_method_are_validation_errors(options, message):
    with pytest.raises(ValidationError, match=message):
        parse({"name": "causal", **options})
