"""Text of made-up words by Zipf's law, as long as a benchmark wants it, and a tokenizer trained on it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

_SYLLABLES = [onset + vowel + coda for onset in "bdfgklmnprstvz" for vowel in "aeiou" for coda in ("", "n", "r", "st")]
_NUM_WORDS = 40_000
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def lines(num_bytes: int, *, seed: int = 0) -> Iterator[str]:
    """Lines of 6 to 39 words, together of about so many bytes."""
    random = np.random.default_rng(0)
    words = np.array(["".join(random.choice(_SYLLABLES, size)) for size in random.integers(1, 4, _NUM_WORDS)])
    cumulative = np.cumsum(1 / np.arange(3, _NUM_WORDS + 3))
    random = np.random.default_rng(seed)
    written = 0
    while written < num_bytes:
        ends = np.cumsum(random.integers(6, 40, 1000))
        ranks = np.searchsorted(cumulative, random.random(ends[-1]) * cumulative[-1])
        for piece in np.split(words[ranks], ends[:-1]):
            line = " ".join(piece).capitalize() + "."
            written += len(line) + 1
            yield line


def write_text(path: Path, num_bytes: int, *, seed: int = 0) -> None:
    """Write such lines to a file."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines(num_bytes, seed=seed))


def save_tokenizer(folder: Path, *, vocabulary: int = 20_000) -> None:
    """Train a lower-casing WordPiece tokenizer of BERT's pipeline on 4 MB of such text and save it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=list(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(lines(4_000_000, seed=1), trainer)
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(roles, _SPECIAL, strict=True)))
    fast.save_pretrained(folder)
