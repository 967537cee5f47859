import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raydistill.models.load import load_tokenizer
from raydistill.tasks._text_rows import EncodeConfig, cut, drop_reasons, encode, split_long

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


def texts(*values: str) -> list[dict[str, str]]:
    return [{"text": value} for value in values]


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
    assert ids(encode(texts(" \n w7 w9\tw5  "), make_tokenizer(), ALL)) == [[CLS, 7, 9, 5, SEP]]


def test_rows_keep_the_order_of_texts_and_parts():
    rows = encode(texts("w5 w6 w7", "w8"), make_tokenizer(), EncodeConfig(max_length=4, min_length=2))
    assert ids(rows) == [[CLS, 5, SEP], [CLS, 6, 7, SEP], [CLS, SEP], [CLS, 8, SEP]]


def test_an_empty_text_is_a_row_of_two_special_tokens_before_dropping():
    assert ids(cut(texts("", "  \n"), make_tokenizer(), ALL)) == [[CLS, SEP]] * 2
    assert encode(texts("", "  \n"), make_tokenizer(), EncodeConfig(max_length=50)) == []


def test_no_text_gives_no_row():
    assert encode([], make_tokenizer(), ALL) == []


def test_special_tokens_written_in_a_text_are_recognised():
    assert ids(encode(texts("w5 [MASK] w6 [SEP]"), make_tokenizer(), ALL)) == [[CLS, 5, MASK, 6, SEP, SEP]]


def test_a_row_of_twelve_tokens_is_kept_and_one_of_eleven_is_dropped():
    examples = texts(" ".join(["w5"] * 10), " ".join(["w5"] * 9))
    assert [len(row) for row in encode(examples, make_tokenizer(), EncodeConfig(max_length=50))] == [12]


def test_short_parts_of_a_long_text_are_dropped():
    rows = encode(texts(" ".join(["w5"] * 30)), make_tokenizer(), EncodeConfig(max_length=20))
    assert [len(row) for row in rows] == [19, 15]
    rows = encode(texts(" ".join(["w5"] * 25)), make_tokenizer(), EncodeConfig(max_length=20))
    assert [len(row) for row in rows] == [19]


def test_a_row_is_dropped_when_half_of_it_is_unknown_special_tokens_counted():
    kept, dropped = ["zzz"] * 5 + ["w5"] * 5, ["zzz"] * 6 + ["w5"] * 4
    rows = encode(texts(" ".join(kept), " ".join(dropped)), make_tokenizer(), EncodeConfig(max_length=50))
    assert ids(rows) == [[CLS, *[UNK] * 5, *[5] * 5, SEP]]


def test_the_reason_for_dropping_is_told():
    config, tokenizer = EncodeConfig(max_length=50), make_tokenizer()
    rows = (row_of(11), np.array([UNK] * 12), row_of(12), np.array([UNK] * 11))
    assert drop_reasons(rows, tokenizer, config) == ["short", "unknown", None, "short"]
    assert drop_reasons([], tokenizer, config) == []


def test_truncation_and_padding_of_the_tokenizers_file_are_not_applied():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=30, pad_id=PAD)
    assert ids(encode(texts("w5 w6 w7 w8 w9", "w5"), tokenizer, ALL)) == [[CLS, 5, 6, 7, 8, 9, SEP], [CLS, 5, SEP]]


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
    rows = encode(texts("Playing, KINGS play queens", "king"), load_tokenizer(tmp_path), ALL)
    assert ids(rows) == [[CLS, 5, 6, 9, 8, 7, 5, UNK, SEP], [CLS, 8, SEP]]


def test_without_max_length_the_tokenizers_limit_splits():
    config = EncodeConfig(min_length=2)
    assert [len(row) for row in encode(texts("w5 w6 w7 w8"), make_tokenizer(model_max_length=5), config)] == [4, 4]


def test_without_any_limit_the_remedy_is_named():
    with pytest.raises(ValueError, match=r"max_length is null .* give encoding\.max_length"):
        encode(texts("w5"), make_tokenizer(), EncodeConfig())


@pytest.mark.parametrize(
    ("key", "value"), [("max_length", 2), ("min_length", 1), ("max_unknown", 0.0), ("max_unknown", 1.1)]
)
def test_values_out_of_range_are_refused_by_key(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value}"):
        EncodeConfig(**{key: value})


def test_ids_are_those_that_the_tokenizer_itself_gives():
    generator = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(5, 45)] + ["[MASK]", "[SEP]", "x", "w5[CLS]w6"])
    sentences = [" ".join(generator.choice(words, generator.integers(0, 30))) for _ in range(50)]
    tokenizer = make_tokenizer()
    expected = [[CLS, *tokenizer(sentence, add_special_tokens=False)["input_ids"], SEP] for sentence in sentences]
    assert ids(cut(texts(*sentences), tokenizer, ALL)) == expected


def test_a_tokenizer_that_splits_special_tokens_does_so():
    tokenizer = make_tokenizer(split_special_tokens=True)
    assert ids(cut(texts("w5[MASK]w6"), tokenizer, ALL)) == [[CLS, UNK, SEP]]
    assert ids(cut(texts("w5[MASK]w6"), make_tokenizer(), ALL)) == [[CLS, 5, MASK, 6, SEP]]


def test_words_are_joined_with_spaces_and_ids_taken_as_they_stand():
    examples = [{"words": ["w5", "w6"], "labels": ["a", "b"]}, {"input_ids": row_of(4).astype(np.uint16)}, *texts("w7")]
    assert ids(cut(examples, make_tokenizer(), ALL)) == [[CLS, 5, 6, SEP], row_of(4).tolist(), [CLS, 7, SEP]]


def test_ids_are_split_and_dropped_like_texts():
    tokenizer, config = make_tokenizer(), EncodeConfig(max_length=20)
    text = " ".join(f"w{number}" for number in range(10, 36))
    given = encode([{"input_ids": row_of(28)}, {"input_ids": row_of(11)}], tokenizer, config)
    assert ids(given) == ids(encode(texts(text, " ".join(text.split()[:9])), tokenizer, config))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"input_ids": [CLS, 7]}, r"start with 2 and end with 7; .* start with 2 \(CLS\) and end with 3 \(SEP\)"),
        ({"input_ids": [[CLS, SEP]]}, r"of shape \(1, 2\)"),
        ({"input_ids": [2.0, 3.0]}, "type float64"),
        ({"input_ids": []}, r"of shape \(0,\)"),
        ({"input_ids": [CLS, 2**40, SEP]}, "range from 2 to 1099511627776"),
        ({"text": "w5", "text_pair": "w6"}, "has a text_pair"),
        ({"label": "a"}, "an example has label; this task reads text, words or input_ids"),
    ],
)
def test_examples_that_are_no_text_are_refused(example, message):
    with pytest.raises(ValueError, match=message):
        cut([example], make_tokenizer(), ALL)
