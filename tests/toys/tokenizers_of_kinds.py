"""Tokenizers of each kind that models come with, trained on a few lines."""

from collections.abc import Callable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from toys.words import make_tokenizer

LINES = [
    "The quick brown fox can't jump over 12345 lazy dogs, isn't it?",
    "w5 w6 w7 don't W8; na\u00efve caf\u00e9s cost \u20ac3.50 (or 4,000 \u5186) \u4e0a\u6d77 \u662f city",
    "  spaces   and\ttabs\nand lines aaaa aaaaaaaa bbbb 0000 ...",
]
_SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
_WORDS = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(LINES * 5, trainer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True), AddedToken("<left>", rstrip=True)])
    return tokenizer


def _bert() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _trained(tokenizer, trainers.WordPieceTrainer(vocab_size=150, special_tokens=_SPECIAL, show_progress=False))


def _bytes(*, add_prefix_space: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return _trained(tokenizer, _bytes_trainer())


def _qwen() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(_WORDS, "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return _trained(tokenizer, _bytes_trainer())


def _bytes_trainer() -> trainers.Trainer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(vocab_size=380, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False)


def _llama() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
    # Merges are learned within words, as those of SentencePiece, and applied to the whole text.
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained = _trained(tokenizer, trainers.BpeTrainer(vocab_size=200, special_tokens=_SPECIAL, show_progress=False))
    trained.pre_tokenizer = None
    trained.decoder = decoders.Metaspace()
    return trained


def _unigram(scheme: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=_SPECIAL, unk_token="[UNK]", show_progress=False)
    return _trained(tokenizer, trainer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "words": lambda: make_tokenizer().backend_tokenizer,
    "bert": _bert,
    "gpt2": lambda: _bytes(add_prefix_space=False),
    "roberta": lambda: _bytes(add_prefix_space=True),
    "qwen2": _qwen,
    "llama": _llama,
    "unigram_first": lambda: _unigram("first"),
    "unigram_always": lambda: _unigram("always"),
}
