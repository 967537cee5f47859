"""A fast tokenizer whose words w5, w6, ... are the ids 5, 6, ..., with BERT's special tokens for one text or two."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from toys.models import VOCABULARY

ROLES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tokenizer(vocabulary: int = VOCABULARY, *, max_length: int = 40) -> PreTrainedTokenizerFast:
    """A tokenizer of so many ids for rows of at most ``max_length``."""
    words = [*ROLES, *(f"w{number}" for number in range(len(ROLES), vocabulary))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {f"{word[1:-1].lower()}_token": word for word in ROLES}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **roles)
