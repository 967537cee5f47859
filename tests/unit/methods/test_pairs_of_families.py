"""A teacher of one family teaches a student of another: each packed family once in either place."""

import pytest

from raydistill.models.heads import has_head
from raydistill.testing import contract, method_case
from toys.zoo import DECODERS, ENCODERS, PACKED, toy, vocabulary_head

SITES = {
    "interchange_variable_mappings": [
        {"teacher_variable_names": ["$L:1"], "student_variable_names": ["$L:1"]},
        {"teacher_variable_names": ["$L:[0:2]$H:1$[2:6]"], "student_variable_names": ["$L:[0:2]$H:1$[2:6]"]},
    ]
}
OF_CLASSES = [
    ("kd", {}),
    ("vkd", {}),
    ("muki", {"margin_reweighting": False}),
    ("patient_kd", {"student_layers": (0, 1), "teacher_layers": (1, 2)}),
]
MASKED = {"mapping": SITES}
CAUSAL = {"mapping": SITES, "alpha_mlm": 0.0, "alpha_clm": 0.25}


def pairs(families):
    """Each family as a teacher, and the next one as its student."""
    names = list(families)
    return list(zip(names, [*names[1:], names[0]], strict=True))


CLASSIFIERS = [name for name in PACKED if has_head(name, "sequence_classification")]
CLASSIFIED = [(*pair, *OF_CLASSES[number % 4]) for number, pair in enumerate(pairs(CLASSIFIERS))]
GENERATED = [
    (*pair, "causal", options) for kind, options in ((ENCODERS, MASKED), (DECODERS, CAUSAL)) for pair in pairs(kind)
]


def made(name, head):
    """A maker of toys as the contract calls it."""

    def make(num_layers, **options):
        # ALBERT's groups divide its blocks.
        groups = {"num_hidden_groups": 1} if name == "albert" else {}
        of_blocks = {"layer_types": None, "no_rope_layers": None} if name in DECODERS else {}
        # A cosine compares last states, which in OPT may be narrower.
        widths = {"word_embed_proj_dim": 16} if name == "opt" else {}
        return toy(name, head=head, num_hidden_layers=num_layers, **groups, **of_blocks, **widths, **options)

    return make


@pytest.mark.parametrize(("teacher", "student", "name", "options"), [*CLASSIFIED, *GENERATED])
def test_a_student_learns_from_a_teacher_of_another_family(teacher, student, name, options, monkeypatch):
    head = vocabulary_head(student) if name == "causal" else "sequence_classification"
    makers = tuple(made(family, head) for family in (teacher, student))
    monkeypatch.setitem(contract.MODELS, "pair", makers)
    contract.ten_steps_on_one_batch_lower_the_loss(method_case(name, options, "pair"))


def test_every_family_teaches_and_learns():
    for place in (0, 1):
        assert {pair[place] for pair in CLASSIFIED} == set(CLASSIFIERS)
        assert {pair[place] for pair in GENERATED} == set(PACKED)
    # Transformers has no classifier of it.
    assert set(PACKED) - set(CLASSIFIERS) == {"granite"}
