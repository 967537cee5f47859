"""What a job reads that the documentation builds in Python: a CSV file of rated texts, and a BERT with a tokenizer."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

from toys.models import VOCABULARY
from toys.words import make_tokenizer

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"


def documented_block() -> str:
    """The second block of code of the page, which builds, plans and runs a job."""
    return PAGE.read_text(encoding="utf-8").split("```python\n")[2].partition("```")[0]


def write_reviews(folder: Path, *, rows: int = 80) -> Path:
    """``reviews.csv``, whose words tell the stars, and the model ``base`` of 9 blocks in a folder."""
    kinds = [("w8 w9 w10", 5), ("w11 w12 w13", 1)]
    lines = [f"{words} w{20 + row % 7},{stars}" for row in range(rows // 2) for words, stars in kinds]
    (folder / "reviews.csv").write_text("\n".join(["review,stars", *lines]) + "\n", encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=9,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=128,
    )
    BertForMaskedLM(config).save_pretrained(folder / "base")
    make_tokenizer(max_length=128).save_pretrained(folder / "base")
    return folder
