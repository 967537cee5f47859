"""A long text has the ids that it would have uncut, whatever tokenizer reads it."""

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from raydistill.tasks import _long_texts, classification, clm, mlm, ner, qa
from raydistill.tasks._long_texts import batches, first_words, head, pieces
from raydistill.tasks._pair_rows import _kept
from toys.tokenizers_of_kinds import KINDS, LINES
from toys.words import make_tokenizer


@cache
def backend_of(kind):
    return KINDS[kind]()


def random_text(seed: int, length: int) -> str:
    """Words and marks of ``LINES``, single letters, white space of all kinds, special tokens and rare characters."""
    random = np.random.default_rng(seed)
    parts = [
        *" ".join(LINES).split(" "),
        *"aab09.,'\u0301\u4e0a\U0001f600",
        "[MASK]",
        "<left>",
        "  ",
        "\n\n",
        "\t",
        "\u00a0",
    ]
    chosen = [parts[place] for place in random.integers(0, len(parts), length)]
    return "".join(one + " " * int(gap) for one, gap in zip(chosen, random.integers(0, 3, length), strict=True))


def ids(backend, text: str) -> list[int]:
    return backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_text_have_its_ids(kind, monkeypatch):
    backend, cut = backend_of(kind), 0
    for seed, size in product(range(4), (7, 30, 90)):
        monkeypatch.setattr(_long_texts, "_PIECE_CHARACTERS", size)
        text = random_text(seed, 300)
        found = list(pieces(text, backend))
        assert [token for piece in found for token in ids(backend, piece)] == ids(backend, text)
        cut += len(found) - 1
    assert cut > 100


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_of_a_text_has_its_first_ids(kind, monkeypatch):
    backend = backend_of(kind)
    monkeypatch.setattr(_long_texts, "_PIECE_CHARACTERS", 50)
    for seed in range(4):
        text = random_text(seed, 300)
        for num_tokens in (1, 40, 100):
            start = head(text, backend, num_tokens=num_tokens)
            found = ids(backend, start)
            assert len(found) >= num_tokens
            assert len(start) < len(text)
            assert found == ids(backend, text)[: len(found)]
        assert head(text, backend, num_tokens=10**6) == text


@pytest.mark.parametrize("text", ["a" * 3000, "ab" * 1500, "\u4e0a" * 3000, " " * 3000, "0123456789" * 300, "=" * 3000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_without_words_has_its_ids_too_or_stays_whole(kind, text, monkeypatch):
    monkeypatch.setattr(_long_texts, "_PIECE_CHARACTERS", 501)
    backend = backend_of(kind)
    found = [token for piece in pieces(text, backend) for token in ids(backend, piece)]
    assert found == ids(backend, text)


def test_a_text_that_is_too_long_to_stay_whole_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(_long_texts, "_PIECE_CHARACTERS", 500)
    monkeypatch.setattr(_long_texts, "LONGEST_WHOLE", 2_000)
    monkeypatch.setattr(qa, "LONGEST_WHOLE", 2_000)
    tokenizer = make_tokenizer()
    message = r"a text of 2501 characters has no white space near character 500 .* at most 2000 .*; split it into lines"
    with pytest.raises(ValueError, match=message):
        mlm.cut([{"text": "a" * 2501}], tokenizer, mlm.EncodeConfig(max_length=20))
    with pytest.raises(ValueError, match=message):
        classification.cut([{"text": "a" * 2501, "label": "x"}], tokenizer, classification.EncodeConfig(("x", "y")))
    with pytest.raises(
        ValueError, match=r"a context has 2500 characters, 'w5 w5w5.*; one of more than 2000 is not read"
    ):
        qa.cut(
            [{"question": "w5", "context": "w5 w5" * 500, "answers": {"text": [], "answer_start": []}}], tokenizer, None
        )
    assert len(mlm.cut([{"text": "a" * 2000}], tokenizer, mlm.EncodeConfig(max_length=20))) == 1


def test_how_many_tokens_are_beyond_a_rows_room_does_not_matter():
    for room, first, second in product(range(1, 7), range(14), range(14)):
        for known_first, known_second in product(range(14), range(14)):
            if all(
                known == own or room <= known < own for known, own in ((known_first, first), (known_second, second))
            ):
                assert _kept(known_first, known_second, room) == _kept(first, second, room)


def tokenizer_of(kind) -> PreTrainedTokenizerFast:
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend_of(kind), bos_token="[CLS]", eos_token="[SEP]", model_max_length=40, **named
    )


def rows_of(task, examples, tokenizer, config) -> list:
    found = task.cut(examples, tokenizer, config)
    rows = [(row.ids, dict(row.values)) if hasattr(row, "ids") else (row, {}) for row in found]
    return [(ids.tolist(), {name: np.asarray(value).tolist() for name, value in more.items()}) for ids, more in rows]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("task", ["mlm", "clm", "packed", "classification", "ner", "qa"])
def test_rows_of_long_texts_are_those_of_texts_that_are_not_cut(task, kind, monkeypatch):
    texts = [random_text(seed, 200) for seed in range(6)]
    labels = ("x", "y")
    single = [{"text": text, "label": "x"} for text in texts]
    pairs = [{"text": texts[0], "text_pair": text[:70], "label": "y"} for text in texts]
    words = [
        {"words": text.split(), "labels": ["B-P" if len(word) > 3 else "O" for word in text.split()]} for text in texts
    ]
    asked = [
        {"question": text, "context": text[400::-1], "answers": {"text": [text[391:397][::-1]], "answer_start": [4]}}
        for text in texts
    ]
    module, examples, config = {
        "mlm": (mlm, single, mlm.EncodeConfig(max_length=20)),
        "clm": (clm, single, clm.EncodeConfig(max_length=20)),
        "packed": (clm, single, clm.EncodeConfig(max_length=20, pack=True)),
        "classification": (classification, [*single, *pairs], classification.EncodeConfig(labels, max_length=20)),
        "ner": (ner, words, ner.EncodeConfig(("O", "B-P"), max_length=20)),
        "qa": (qa, asked, qa.EncodeConfig(max_length=20, stride=4)),
    }[task]
    tokenizer = tokenizer_of(kind)
    whole = rows_of(module, examples, tokenizer, config)
    monkeypatch.setattr(_long_texts, "_PIECE_CHARACTERS", 60)
    monkeypatch.setattr(_long_texts, "_BATCH_CHARACTERS", 300)
    assert rows_of(module, examples, tokenizer, config) == whole
    assert len(whole) >= len(examples) or task == "packed"


def peak_growth(call) -> int:
    """Bytes by which the peak of this process's memory exceeds what it had before a call."""
    Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status")

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    before = kilobytes("VmRSS")
    call()
    return 1024 * (kilobytes("VmHWM") - before)


@pytest.mark.parametrize(("task", "size", "bound"), [("classification", 12_000_000, 3), ("mlm", 3_000_000, 20)])
def test_a_long_text_takes_few_bytes_a_character_where_the_tokenizer_would_take_sixty(task, size, bound):
    text = "w5 w6 w7 w8 " * (size // 12)
    module, config = {
        "classification": (classification, classification.EncodeConfig(("x", "y"), max_length=40)),
        "mlm": (mlm, mlm.EncodeConfig(max_length=40)),
    }[task]
    tokenizer, examples = make_tokenizer(), [{"text": text, "label": "x"}]
    # What the first call takes for itself is not counted.
    module.cut([{"text": text[:200_000], "label": "x"}], tokenizer, config)
    assert peak_growth(lambda: module.cut(examples, tokenizer, config)) < bound * size


def test_words_beyond_a_rows_room_are_not_tokenized(monkeypatch):
    monkeypatch.setattr(_long_texts, "_PIECE_CHARACTERS", 60)
    backend = make_tokenizer().backend_tokenizer
    assert first_words(["w5", "", "w6"] * 40, backend, num_tokens=4) == ["w5", "", "w6", "w5", "", "w6"]
    assert first_words(["w5"] * 6, backend, num_tokens=4) == ["w5"] * 6


def test_batches_hold_a_number_of_characters_in_the_order_of_the_texts(monkeypatch):
    monkeypatch.setattr(_long_texts, "_BATCH_CHARACTERS", 10)
    assert list(batches(["a" * 4, "b" * 6, "c", "d" * 30, "", "e"])) == [
        ["a" * 4, "b" * 6],
        ["c"],
        ["d" * 30],
        ["", "e"],
    ]
    assert list(batches([["a" * 4, "b" * 4], ["c" * 3]])) == [[["a" * 4, "b" * 4]], [["c" * 3]]]
