import json

import pytest
from pydantic import ValidationError

from raydistill.config.named import parser
from raydistill.interventions.sites import load_mapping

MAPPING = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:2$H:1$[0:8]"], "student_variable_names": ["$L:1$H:0$[0:8]"]}
    ]
}
parse = parser("raydistill.methods")


def test_a_mapping_file_becomes_part_of_the_section(tmp_path):
    path = tmp_path / "own.nm"
    path.write_text(json.dumps(MAPPING))
    section = parse({"name": "causal", "mapping": str(path)})
    path.unlink()
    again = parse(json.loads(json.dumps(section.dump())))
    assert again.config == section.config
    assert load_mapping(again.config.mapping) == load_mapping(MAPPING)


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
