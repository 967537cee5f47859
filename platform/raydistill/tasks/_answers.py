"""How well a predicted answer matches the given ones: exact match and F1 of words, as SQuAD defines them."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """A text in lower case without punctuation (of ASCII) and English articles, its words parted by single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def known_answers(answers: Sequence[str]) -> list[str]:
    """The answers, normalized, of which something is left; an empty one where there is none."""
    return [text for answer in answers if (text := normalized(answer))] or [""]


def match(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of a prediction, each the greatest over the answers, in [0, 1].

    Without answers only an empty prediction is right. Source: Rajpurkar et al. 2018 and its evaluation script.
    """
    guess = normalized(prediction)
    known = known_answers(answers)
    return float(guess in known), max(_f1(guess.split(), answer.split()) for answer in known)


def _f1(guess: list[str], answer: list[str]) -> float:
    if not guess or not answer:
        return float(guess == answer)
    common = (Counter(guess) & Counter(answer)).total()
    # 2pr / (p + r) of p = common / guess and r = common / answer.
    return 2 * common / (len(guess) + len(answer))
