import numpy as np
import pytest
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raydistill.tasks import ner
from raydistill.tasks._base import Encoding
from raydistill.tasks._entities import entity_counts, entity_metrics, entity_types
from raydistill.tasks.ner import NO_TAG, Config, EncodeConfig, Task
from toys.classifiers import toy_classifier
from toys.models import toy_bert, toy_distilbert
from toys.tagged import batch_of, fit, metrics_of
from toys.words import make_tokenizer

CLS, SEP = 2, 3
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CONFIG = EncodeConfig(labels=TAGS, max_length=12)


def wordpiece():
    """BERT's kind of tokenizer: w5 is 5, w56 is 5 and 6, w567 is 5, 6 and 7."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w5", "##6", "##7", "w8"]
    whole = make_tokenizer()
    backend = whole.backend_tokenizer
    vocabulary = {word: number for number, word in enumerate(words)}
    backend.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


def example(words, tags):
    return {"words": words.split(), "labels": tags.split()}


def test_tags_that_the_data_have_are_in_an_order_that_no_order_of_examples_changes():
    examples = [
        example("a b c", "O I-PER B-PER"),
        example("a b", "I-LOC B-LOC"),
        example("a b c", "S-ORG E-ORG O"),
        example("a b", "B-MISC B"),
    ]
    expected = ("O", "B", "B-LOC", "I-LOC", "B-MISC", "E-ORG", "S-ORG", "B-PER", "I-PER")
    assert ner.labels_of(examples) == ner.labels_of(reversed(examples)) == expected


@pytest.mark.parametrize(
    ("tags", "message"),
    [("O PER", "labels has 'PER'; a tag is O, or starts with B-"), ("O O", "labels is O; give two")],
)
def test_what_the_data_have_must_be_tags(tags, message):
    with pytest.raises(ValueError, match=message):
        ner.labels_of([example("a b", tags)])


def test_the_first_token_of_a_word_has_its_tag_and_the_others_none():
    (row,) = ner.cut([example("w567 w8 w56", "B-PER O I-LOC")], wordpiece(), CONFIG)
    assert row.ids.tolist() == [CLS, 5, 6, 7, 8, 5, 6, SEP]
    assert row.values["tag"].tolist() == [NO_TAG, 1, NO_TAG, NO_TAG, 0, 4, NO_TAG, NO_TAG]
    assert row.values["lost_words"] == 0


@pytest.mark.parametrize("max_length", [3, 4, 5, 7, 9, 40])
def test_rows_and_tags_are_those_of_the_published_alignment(max_length):
    tokenizer = wordpiece()
    examples = [example("w567 w8 w56 w5", "B-PER O I-LOC O"), example("w8", "O"), example("what w56", "B-PER I-PER")]
    rows = ner.cut(examples, tokenizer, EncodeConfig(labels=TAGS, max_length=max_length))
    for one, row in zip(examples, rows, strict=True):
        expected = tokenizer(one["words"], is_split_into_words=True, truncation=True, max_length=max_length)
        previous, tags = None, []
        for word in expected.word_ids():
            tags.append(NO_TAG if word is None or word == previous else TAGS.index(one["labels"][word]))
            previous = word
        assert row.ids.tolist() == expected["input_ids"]
        assert row.values["tag"].tolist() == tags
        kept = {word for word in expected.word_ids() if word is not None}
        assert row.values["lost_words"] == len(one["words"]) - len(kept)


def bytewise(*, add_prefix_space):
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    space = "\u0120"
    vocabulary = {**letters, "ab": len(letters), f"{space}a": len(letters) + 1, f"{space}ab": len(letters) + 2}
    merges = [("a", "b"), (space, "a"), (space, "ab")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="!", model_max_length=40)


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_byte_level_tokenizers_see_words_after_a_space(add_prefix_space):
    # Published code asks for add_prefix_space=True with words.
    words = ["ab", "ba", "a", "'s"]
    expected = bytewise(add_prefix_space=True)(words, is_split_into_words=True)["input_ids"]
    one = {"words": words, "labels": ["O"] * 4}
    (row,) = ner.cut([one], bytewise(add_prefix_space=add_prefix_space), CONFIG)
    assert row.ids.tolist() == expected
    assert (row.values["tag"] != NO_TAG).sum() == 4


def test_a_word_without_a_token_is_lost_and_a_row_without_any_is_left_out():
    tokenizer = make_tokenizer()
    rows = ner.cut(
        [example("w5", "O"), {"words": [], "labels": []}, {"words": [" "], "labels": ["O"]}], tokenizer, CONFIG
    )
    assert [row.values["lost_words"] for row in rows] == [0, 0, 1]
    assert ner.drop_reasons([row.ids for row in rows], tokenizer, CONFIG) == [None, "no word", "no word"]


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (example("w5 w6", "O B-ORG"), r"has the label 'B-ORG'; encoding\.labels names O, B-PER, "),
        (example("w5 w6", "O"), "has 2 words and 1 labels"),
        ({"text": "w5"}, "an example has text; this task reads words and labels"),
    ],
)
def test_examples_without_a_known_tag_for_each_word_are_refused(one, message):
    with pytest.raises(ValueError, match=message):
        ner.cut([one], make_tokenizer(), CONFIG)


@pytest.mark.parametrize(
    ("labels", "message"),
    [((), "is empty"), (("O",), "two or more"), (("O", "O"), "two or more"), (("O", "PER"), "has 'PER'; a tag is O")],
)
def test_tags_of_no_scheme_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        EncodeConfig(labels=labels)


SCHEMES = {
    "IOB2": TAGS,
    "IOBES": ("O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"),
    "IOB1 without types": ("O", "B", "I"),
    "types with dashes": ("O", "B-a-b", "I-a-b", "B-a", "I-a"),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_entities_over_parts_are_those_of_seqeval_over_all(name):
    labels, generator = SCHEMES[name], np.random.default_rng(3)
    tags = [list(generator.choice(labels, size)) for size in generator.integers(1, 15, 60)]
    # Half of the predictions are right, so that some entities are found.
    predicted = [[tag if generator.random() < 0.7 else str(generator.choice(labels)) for tag in row] for row in tags]
    types = entity_types(labels)
    counts = [entity_counts(tags[part], predicted[part], types) for part in (slice(0, 11), slice(11, 60))]
    found = entity_metrics({name: counts[0][name] + counts[1][name] for name in counts[0]}, types)
    assert 0.1 < found["f1"] < 0.9
    assert found["f1"] == pytest.approx(f1_score(tags, predicted), abs=1e-15)
    assert found["precision"] == precision_score(tags, predicted)
    assert found["recall"] == recall_score(tags, predicted)
    of_types = f1_score(tags, predicted, average=None)
    assert [found[f"f1_{one}"] for one in types] == pytest.approx(list(of_types), abs=1e-15)


def test_without_entities_all_shares_are_0():
    counts = entity_counts([["O"]], [["O"]], ("PER",))
    assert entity_metrics(counts, ("PER",)) == {"f1": 0, "precision": 0, "recall": 0, "f1_PER": 0, "entities": 0}


def make_task():
    return Task(Config(), Encoding(61, {}, (), 40, num_rows=30, labels=TAGS))


def sentences(number, seed=0):
    """w5 to w9 are persons' names, w10 to w14 places', their tag B or I by the word before."""
    generator, found = np.random.default_rng(seed), []
    for _ in range(number):
        words = generator.choice([5, 6, 10, 11, 20, 21, 22], generator.integers(4, 9)).tolist()
        types = ["PER" if word < 10 else "LOC" if word < 15 else "" for word in words]
        tags = [
            "O" if not kind else f"I-{kind}" if place and types[place - 1] == kind else f"B-{kind}"
            for place, kind in enumerate(types)
        ]
        found.append({"words": [f"w{word}" for word in words], "labels": tags})
    return found


def prepared(examples, row_ids=None):
    rows = ner.cut(examples, make_tokenizer(), CONFIG)
    return make_task().prepare_batch(batch_of(rows, ner.columns(CONFIG), row_ids))


def test_targets_are_the_tagged_tokens_of_all_rows_in_order():
    rows = ner.cut([example("w567 w8", "B-PER O"), example("w8 w56", "I-LOC I-PER")], wordpiece(), CONFIG)
    batch = make_task().prepare_batch(batch_of(rows, ner.columns(CONFIG)))
    assert batch["labels"].tolist() == [1, 0, 4, 2]
    assert batch["label_index"].tolist() == [1, 4, 6 + 1, 6 + 2]
    assert batch["input_ids"].flatten()[batch["label_index"]].tolist() == [5, 8, 8, 5]


def test_metrics_of_a_model_are_those_of_seqeval_however_rows_are_cut_into_batches():
    model = toy_classifier(toy_distilbert, 2, head="token_classification", labels=TAGS).eval()
    examples = sentences(14)
    parts = [prepared(examples[:5]), prepared(examples[5:])]
    found = metrics_of(model, make_task(), parts)
    whole = prepared(examples)
    logits = model(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"].long()).logits
    ids = iter(logits.argmax(-1).flatten()[whole["label_index"]].tolist())
    predicted = [[TAGS[next(ids)] for _ in one["words"]] for one in examples]
    tags = [one["labels"] for one in examples]
    assert found["f1"] == pytest.approx(f1_score(tags, predicted), abs=1e-15)
    assert found["accuracy"] == accuracy_score(tags, predicted)
    assert found["words"] == sum(map(len, tags))
    # The loss is of float32 logits: 24 bits, of values below 8.
    logits_of_words = logits.flatten(0, 1)[whole["label_index"]].log_softmax(-1)
    expected = -logits_of_words.gather(1, whole["labels"][:, None]).mean().item()
    assert found["loss"] == pytest.approx(expected, abs=8 * 2**-23)


def test_lost_words_are_counted():
    batch = prepared([example(" ".join(["w5"] * 15), " ".join(["O"] * 15)), example("w5", "O")])
    model = toy_classifier(toy_bert, 1, head="token_classification", labels=TAGS)
    assert metrics_of(model, make_task(), [batch, batch])["lost_words"] == 10


def test_nothing_to_score_is_an_error_of_one_line():
    with pytest.raises(ValueError, match="no validation row has a tag"):
        make_task().metrics({"words": 0.0})


@pytest.mark.parametrize("make", [toy_bert, toy_distilbert])
def test_thirty_steps_of_fine_tuning_raise_f1_on_other_sentences(make):
    model = toy_classifier(make, 2, head="token_classification", labels=TAGS)
    validation = [prepared(sentences(20, seed=1))]
    before = metrics_of(model, make_task(), validation)
    fit(model, prepared(sentences(28)))
    after = metrics_of(model, make_task(), validation)
    assert after["f1"] > before["f1"] + 0.3
    assert after["loss"] < before["loss"]


def test_predictions_are_the_tags_of_each_rows_words():
    model = toy_classifier(toy_bert, 2, head="token_classification", labels=TAGS).eval()
    examples = sentences(6)
    sums = [
        make_task().score(model, prepared(examples[part], row_ids))
        for part, row_ids in ((slice(0, 2), [7, 3]), (slice(2, 6), [20, 21, 22, 29]))
    ]
    found = make_task().predictions({name: (sums[0][name] + sums[1][name]).numpy() for name in sums[0]})
    assert found["row_id"].tolist() == [3, 7, 20, 21, 22, 29]
    order = [1, 0, 2, 3, 4, 5]
    assert found["label"] == [" ".join(examples[place]["labels"]) for place in order]
    whole = prepared(examples)
    logits = model(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"].long()).logits
    ids = iter(logits.argmax(-1).flatten()[whole["label_index"]].tolist())
    predicted = [" ".join(TAGS[next(ids)] for _ in one["words"]) for one in examples]
    assert found["prediction"] == [predicted[place] for place in order]
