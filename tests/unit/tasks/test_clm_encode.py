import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raydistill.tasks._text_rows import EncodeConfig as MaskedEncodeConfig
from raydistill.tasks.clm import EncodeConfig, check_tokenizer, cut, drop_reasons

UNK, BOS, EOS = range(3)


def make_tokenizer(*, bos: str | None = "<s>", eos: str | None = "</s>") -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(3, 60))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token=bos, eos_token=eos)


def texts(*values: str) -> list[dict[str, str]]:
    return [{"text": value} for value in values]


def words(start: int, stop: int) -> str:
    return " ".join(f"w{number}" for number in range(start, stop))


def rows_of(examples, tokenizer=None, **options) -> list[list[int]]:
    config = EncodeConfig(**{"max_length": 20, "min_length": 2, **options})
    return [row.tolist() for row in cut(examples, tokenizer or make_tokenizer(), config)]


def test_a_text_becomes_its_tokens_between_bos_and_eos():
    assert rows_of(texts(" w7 w9\n", "")) == [[BOS, 7, 9, EOS], [BOS, EOS]]


@pytest.mark.parametrize("bos", [None, "</s>"])
def test_a_tokenizer_without_bos_or_with_one_for_both_has_eos_in_both_places(bos):
    assert rows_of(texts("w7"), make_tokenizer(bos=bos)) == [[EOS, 7, EOS]]


def test_a_long_text_is_split_as_published_each_part_with_both_ends():
    rows = rows_of(texts(words(3, 25)))
    assert [len(row) for row in rows] == [19, 7]
    assert all(row[0] == BOS and row[-1] == EOS for row in rows)
    assert [token for row in rows for token in row if token > EOS] == list(range(3, 25))


def test_the_defaults_are_those_of_masked_rows_and_nothing_is_packed():
    ours, theirs = EncodeConfig(), MaskedEncodeConfig()
    assert (ours.max_length, ours.min_length, ours.max_unknown) == (None, theirs.min_length, theirs.max_unknown)
    assert not ours.pack


def test_short_and_unknown_rows_are_dropped_for_their_reason():
    rows = [np.full(length, token) for length, token in ((11, 7), (12, 7), (12, UNK))]
    assert drop_reasons(rows, make_tokenizer(), EncodeConfig()) == ["short", None, "unknown"]


def test_packed_rows_are_full_but_the_last_and_hold_every_token_in_order():
    rows = rows_of(texts(words(3, 10), "", words(10, 30), words(30, 35)), pack=True, max_length=8)
    assert [len(row) for row in rows] == [8] * 4 + [6]
    stream = [BOS, *range(3, 10), EOS, BOS, *range(10, 30), EOS, BOS, *range(30, 35), EOS]
    assert [token for row in rows for token in row] == stream


def test_one_token_stands_between_packed_texts_where_both_ends_are_the_same():
    rows = rows_of(texts("w7 w8", "w9"), make_tokenizer(bos=None), pack=True)
    assert rows == [[EOS, 7, 8, EOS, 9, EOS]]


@pytest.mark.parametrize("examples", [[], texts("", " ")])
def test_nothing_to_pack_gives_no_row(examples):
    assert rows_of(examples, pack=True) == []


def test_ids_have_to_start_with_bos_and_end_with_eos():
    assert rows_of([{"input_ids": [BOS, 7, EOS]}]) == [[BOS, 7, EOS]]
    with pytest.raises(ValueError, match=r"start with 7 and .* start with 1 \(bos\) and end with 2 \(eos\)"):
        rows_of([{"input_ids": [7, EOS]}])


def test_a_tokenizer_without_eos_is_refused():
    check_tokenizer(make_tokenizer(bos=None))
    with pytest.raises(ValueError, match="the tokenizer has no eos token"):
        check_tokenizer(make_tokenizer(eos=None))


@pytest.mark.parametrize("pack", [False, True])
def test_without_any_limit_the_remedy_is_named(pack):
    with pytest.raises(ValueError, match=r"give encoding\.max_length"):
        rows_of(texts("w7"), max_length=None, pack=pack)
