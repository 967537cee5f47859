import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raydistill.models.load import load_tokenizer
from raydistill.tasks._text_rows import EncodeConfig, cut, drop_reason, encode, split_long

PAD, UNK, CLS, SEP, MASK = range(5)
ALL = EncodeConfig(max_length=50, min_length=2, max_unknown=1.0)


def make_tokenizer(**options) -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(5, 40))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(roles, words, strict=False)), **options)


def ids(rows) -> list[list[int]]:
    return [row.tolist() for row in rows]


def row_of(length: int) -> np.ndarray:
    return np.array([CLS, *np.arange(10, 8 + length), SEP])


@pytest.mark.parametrize(
    ("length", "lengths"),
    [
        (512, [512]),
        (513, [511, 4]),
        (1020, [511, 511]),
        (1021, [511, 512, 2]),
        (1022, [511, 512, 3]),
        (1531, [511, 512, 512, 2]),
    ],
)
def test_long_rows_split_into_the_published_lengths(length, lengths):
    parts = list(split_long(row_of(length), max_length=512, cls_id=CLS, sep_id=SEP))
    assert [len(part) for part in parts] == lengths


@pytest.mark.parametrize("length", [9, 17, 30, 41])
@pytest.mark.parametrize("max_length", [3, 4, 8])
def test_parts_fit_start_with_cls_end_with_sep_and_hold_every_token_once(length, max_length):
    row = row_of(length)
    parts = list(split_long(row, max_length=max_length, cls_id=CLS, sep_id=SEP))
    assert all(part[0] == CLS and part[-1] == SEP and len(part) <= max_length for part in parts)
    content = np.concatenate(parts)
    np.testing.assert_array_equal(content[content >= 10], row[1:-1])


def test_a_text_becomes_its_tokens_between_cls_and_sep():
    assert ids(encode([" \n w7 w9\tw5  "], make_tokenizer(), ALL)) == [[CLS, 7, 9, 5, SEP]]


def test_rows_keep_the_order_of_texts_and_parts():
    rows = encode(["w5 w6 w7", "w8"], make_tokenizer(), EncodeConfig(max_length=4, min_length=2))
    assert ids(rows) == [[CLS, 5, SEP], [CLS, 6, 7, SEP], [CLS, SEP], [CLS, 8, SEP]]


def test_an_empty_text_is_a_row_of_two_special_tokens_before_dropping():
    assert ids(cut(["", "  \n"], make_tokenizer(), ALL)) == [[CLS, SEP]] * 2
    assert encode(["", "  \n"], make_tokenizer(), EncodeConfig(max_length=50)) == []


def test_no_text_gives_no_row():
    assert encode([], make_tokenizer(), ALL) == []


def test_special_tokens_written_in_a_text_are_recognised():
    assert ids(encode(["w5 [MASK] w6 [SEP]"], make_tokenizer(), ALL)) == [[CLS, 5, MASK, 6, SEP, SEP]]


def test_a_row_of_twelve_tokens_is_kept_and_one_of_eleven_is_dropped():
    texts = [" ".join(["w5"] * 10), " ".join(["w5"] * 9)]
    assert [len(row) for row in encode(texts, make_tokenizer(), EncodeConfig(max_length=50))] == [12]


def test_short_parts_of_a_long_text_are_dropped():
    rows = encode([" ".join(["w5"] * 30)], make_tokenizer(), EncodeConfig(max_length=20))
    assert [len(row) for row in rows] == [19, 15]
    rows = encode([" ".join(["w5"] * 25)], make_tokenizer(), EncodeConfig(max_length=20))
    assert [len(row) for row in rows] == [19]


def test_a_row_is_dropped_when_half_of_it_is_unknown_special_tokens_counted():
    kept, dropped = ["zzz"] * 5 + ["w5"] * 5, ["zzz"] * 6 + ["w5"] * 4
    rows = encode([" ".join(kept), " ".join(dropped)], make_tokenizer(), EncodeConfig(max_length=50))
    assert ids(rows) == [[CLS, *[UNK] * 5, *[5] * 5, SEP]]


def test_the_reason_for_dropping_is_told():
    config, tokenizer = EncodeConfig(max_length=50), make_tokenizer()
    rows = (row_of(11), np.array([UNK] * 12), row_of(12))
    assert [drop_reason(row, tokenizer, config) for row in rows] == ["short", "unknown", None]


def test_truncation_and_padding_of_the_tokenizers_file_are_not_applied():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=30, pad_id=PAD)
    assert ids(encode(["w5 w6 w7 w8 w9", "w5"], tokenizer, ALL)) == [[CLS, 5, 6, 7, 8, 9, SEP], [CLS, 5, SEP]]


def test_a_word_piece_tokenizers_files_that_pad_and_cut_give_whole_rows(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "king", ","]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), words, strict=False))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(tmp_path)
    assert '"max_length": 4' in (tmp_path / "tokenizer.json").read_text()
    rows = encode(["Playing, KINGS play queens", "king"], load_tokenizer(tmp_path), ALL)
    assert ids(rows) == [[CLS, 5, 6, 9, 8, 7, 5, UNK, SEP], [CLS, 8, SEP]]


def test_without_max_length_the_tokenizers_limit_splits():
    config = EncodeConfig(min_length=2)
    assert [len(row) for row in encode(["w5 w6 w7 w8"], make_tokenizer(model_max_length=5), config)] == [4, 4]


def test_without_any_limit_the_remedy_is_named():
    with pytest.raises(ValueError, match=r"max_length is null .* give encoding\.max_length"):
        encode(["w5"], make_tokenizer(), EncodeConfig())


@pytest.mark.parametrize(
    ("key", "value"), [("max_length", 2), ("min_length", 1), ("max_unknown", 0.0), ("max_unknown", 1.1)]
)
def test_values_out_of_range_are_refused_by_key(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}"):
        EncodeConfig(**{key: value})
