"""Which token fills short rows: the same for a corpus and for a model that answers about texts."""

import pytest

from raydistill.data.corpus import tokenizer_info
from raydistill.deploy.answers import ClassAnswers
from raydistill.tasks._tokenizing import check_filler
from raydistill.user_error import UserError
from toys.models import toy_bert
from toys.words import make_tokenizer

TOKENS = {"pad": "[PAD]", "unk": "w5", "eos": "w6"}


def tokenizer_with(*roles: str):
    found = make_tokenizer()
    for role in TOKENS:
        setattr(found, f"{role}_token", TOKENS[role] if role in roles else None)
    return found


@pytest.mark.parametrize(
    ("roles", "filler"),
    [(("pad", "unk", "eos"), "[PAD]"), (("unk", "eos"), "w5"), (("eos",), "w6"), (("pad", "eos"), "[PAD]")],
)
def test_the_first_of_pad_unk_and_eos_that_a_tokenizer_has_fills_rows(roles, filler):
    tokenizer = tokenizer_with(*roles)
    check_filler(tokenizer)
    expected = tokenizer.convert_tokens_to_ids(filler)
    assert tokenizer_info(tokenizer, max_length=8, files={}).pad_id == expected
    assert ClassAnswers(toy_bert(1).config, tokenizer, max_length=8)._pad_id == expected


def test_a_tokenizer_with_none_of_them_is_refused():
    with pytest.raises(UserError, match="the tokenizer has no pad, unk or eos token; rows could not be filled"):
        check_filler(tokenizer_with())
