"""Which parts of a corpus have labels."""

import pytest

from raydistill.config.named import parser
from raydistill.data.labelled import is_unlabelled, of_part, unlabelled_parts

LABELS = ["red", "green"]


def encoding(**section):
    return parser("raydistill.tasks", attribute="EncodeConfig")(section)


@pytest.mark.parametrize(
    ("labelled", "without"), [("all", ()), ("held_out", ("train",)), ("none", ("train", "held_out"))]
)
def test_an_encoding_says_which_parts_have_labels(labelled, without):
    section = encoding(name="classification", labels=LABELS, labelled=labelled)
    assert unlabelled_parts(section) == without
    for number, part in enumerate(("train", "held_out")):
        own = of_part(section, number)
        assert is_unlabelled(own.dump()) is (part in without)
        assert ("label" in own.module.columns(own.config)) is (part not in without)
        assert own.dump() | {"labelled": labelled} == section.dump()


@pytest.mark.parametrize("section", [{"name": "mlm"}, {"name": "glue", "task": "rte"}])
def test_rows_of_other_tasks_have_what_their_task_needs(section):
    of_task = encoding(**section)
    assert unlabelled_parts(of_task) == ()
    assert of_part(of_task, 0) == of_task
