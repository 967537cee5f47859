"""Stored teacher outputs: what is written is read back row by row, or refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from raydistill.data.mixture import CorpusPart
from raydistill.data.sealed_table import ROW_GROUP_ROWS, FileInfo
from raydistill.data.stored_outputs import StoredOutputs, StoredSet
from raydistill.data.stream import BatchBuilder, FeedSpec
from raydistill.data.teacher_outputs import (
    Header,
    Manifest,
    OutputSet,
    OutputSpec,
    SetShard,
    digest_of,
    record_batch,
    schema_of,
)
from raydistill.data.teacher_outputs_writer import OutputSetWriter
from toys.corpus import random_rows, write_corpus

SHARDS = (1200, 700)
EVERYTHING = ("logits", "cls_states", "dropout_scores", "top_k")


def header(shards=SHARDS, *, kinds=EVERYTHING, codec="none", dtype="float32", **changes: Any) -> Header:
    kept = OutputSpec(kinds, (1, 3) if "cls_states" in kinds else (), dtype, 4)
    facts = {
        "teacher": "teacher",
        "teacher_hash": "t" * 64,
        "tokenizer_hash": "0" * 64,
        "corpus_hash": "c" * 64,
        "rows": sum(shards),
        "task": {"name": "classification"},
        "labels": ("red", "green", "blue"),
        "kinds": kinds,
        "layers": kept.layers,
        "columns": kept.columns(num_classes=3, hidden_size=8, vocab_size=61),
        "codec": codec,
        "precision": "fp32",
        "options": {},
    }
    return Header.model_validate({**facts, **changes})


def values(rows: np.ndarray, of: Header) -> dict[str, Any]:
    """Numbers that tell a row from any other; row n has n % 3 masked places."""
    found: dict[str, Any] = {}
    for name, column in of.columns.items():
        number = np.arange(column.size).reshape(column.shape)
        if column.per == "row":
            found[name] = (rows.reshape(-1, *[1] * len(column.shape)) + number / 16).astype(column.dtype)
        else:
            places = [np.arange(row % 3).reshape(-1, *[1] * len(column.shape)) for row in rows]
            pairs = zip(places, rows, strict=True)
            found[name] = [(place + number + row % 50).astype(column.dtype) for place, row in pairs]
    return found


def blocks(shards=SHARDS) -> list[np.ndarray]:
    found, first = [], 0
    for size in shards:
        found += [
            np.arange(start, min(start + ROW_GROUP_ROWS, first + size)) for start in range(first, first + size, 1000)
        ]
        first += size
    return found


def write(folder: Path, of: Header | None = None, shards=SHARDS) -> OutputSet:
    of = of or header(shards)
    with OutputSetWriter(str(folder), of, shard_rows=shards) as writer:
        for rows in blocks(shards):
            if rows[0] >= writer.first_row and not writer.is_finished:
                writer.add(rows, values(rows, of))
        return writer.finish()


def same(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return all(map(np.array_equal, first, second)) and len(first) == len(second)
    return first.dtype == second.dtype and np.array_equal(first, second)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_read_back_in_the_order_asked_for(tmp_path, codec, dtype):
    of = header(codec=codec, dtype=dtype)
    write(tmp_path / "set", of)
    rows = np.random.default_rng(0).permutation(1900)[:500]
    found = OutputSet.open(str(tmp_path / "set")).read(rows)
    expected = values(rows, of)
    assert found.keys() == expected.keys() == of.columns.keys()
    assert all(same(found[name], expected[name]) for name in expected)


def test_ids_take_two_bytes_up_to_65536_of_them_and_four_beyond():
    spec = OutputSpec(("top_k",), (), "float32", 4)
    found = [spec.columns(num_classes=1, hidden_size=1, vocab_size=size)["top_k_ids"] for size in (65_536, 65_537)]
    assert [column.dtype for column in found] == ["uint16", "int32"]


def test_a_row_takes_what_the_forecast_counts(tmp_path):
    of = header((1000,), kinds=("logits", "cls_states"))
    found = write(tmp_path / "set", of, (1000,))
    expected = 1000 * (8 + sum(column.num_bytes for column in of.columns.values()))
    assert expected <= found.num_bytes < 1.05 * expected


def test_a_row_with_another_id_is_refused(tmp_path):
    of = header((3,), kinds=("logits",))
    (tmp_path / "shards").mkdir()
    rows = np.array([0, 2, 1])
    batch = record_batch(rows, values(rows, of), of.columns)
    file = tmp_path / "shards" / "part-00000.arrow"
    with pa.ipc.new_file(str(file), schema_of(of.columns)) as stream:
        stream.write_batch(batch)
    size = file.stat().st_size
    digest = digest_of(batch).encode()
    (tmp_path / "digests.txt").write_bytes(digest)
    sha256 = hashlib.sha256(digest).hexdigest()
    shard = SetShard(file="shards/part-00000.arrow", rows=3, bytes=size, sha256="", digests_sha256=sha256)
    manifest = Manifest(header=of, shards=(shard,), digests=FileInfo(bytes=len(digest), sha256=sha256))
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    found = OutputSet.open(str(tmp_path))
    assert found.read([0])["logits"].shape == (1, 3)
    with pytest.raises(ValueError, match=r"part-00000\.arrow has row 2 where row 1 of the corpus belongs"):
        found.read([0, 1])


def test_changed_digests_are_refused_by_name_when_a_row_of_their_shard_is_read(tmp_path):
    write(tmp_path)
    file = tmp_path / "digests.txt"
    content = bytearray(file.read_bytes())
    assert len(content) == 16 * 3
    content[2 * 16] ^= 1
    file.write_bytes(content)
    found = OutputSet.open(str(tmp_path))
    assert len(found.read([1199])["dropout_scores"]) == 1
    with pytest.raises(ValueError, match=r"digests\.txt has SHA-256"):
        found.read([1200])


def changed(file: Path, value: float) -> None:
    """Change one stored number to its negative."""
    content = bytearray(file.read_bytes())
    place = content.index(np.float32(value).tobytes())
    content[place : place + 4] = np.float32(-value).tobytes()
    file.write_bytes(content)


def test_changed_values_are_refused_when_they_are_read(tmp_path):
    write(tmp_path, header(kinds=("logits",)))
    changed(tmp_path / "shards" / "part-00001.arrow", 1500.125)
    found = OutputSet.open(str(tmp_path))
    found.read([0, 1199])
    with pytest.raises(ValueError, match=r"part-00001\.arrow has other values than those that were written"):
        found.read([1200])
    with pytest.raises(ValueError, match=r"part-00001\.arrow has SHA-256 .*, its manifest says"):
        found.verify()


def test_a_truncated_or_missing_file_is_refused_when_a_set_is_opened(tmp_path):
    write(tmp_path)
    file = tmp_path / "shards" / "part-00000.arrow"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"part-00000\.arrow has {size - 1} bytes, its manifest says {size}"):
        OutputSet.open(str(tmp_path))
    file.unlink()
    with pytest.raises(ValueError, match="has 0 bytes"):
        OutputSet.open(str(tmp_path))


def test_a_folder_without_manifest_or_of_another_version_is_no_set(tmp_path):
    with pytest.raises(ValueError, match=r"have no manifest\.json; give the folder of a finished capture stage"):
        OutputSet.open(str(tmp_path))
    write(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["header"]["version"] = 99
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="have format version 99, this program reads 3"):
        OutputSet.open(str(tmp_path))


def interrupted(folder: Path, of: Header) -> None:
    """A writer that dies in its second shard."""
    with OutputSetWriter(str(folder), of, shard_rows=(1200, 1700)) as writer:
        for rows in blocks((1200, 1700))[:3]:
            writer.add(rows, values(rows, of))


def test_an_interrupted_writer_leaves_its_finished_shards_to_the_next(tmp_path):
    of = header((1200, 1700))
    interrupted(tmp_path / "set", of)
    with pytest.raises(ValueError, match="have no manifest"):
        OutputSet.open(str(tmp_path / "set"))
    assert OutputSetWriter(str(tmp_path / "set"), of, shard_rows=(1200, 1700)).first_row == 1200
    resumed = write(tmp_path / "set", of, (1200, 1700))
    undisturbed = write(tmp_path / "whole", of, (1200, 1700))
    assert resumed.hash == undisturbed.hash
    resumed.verify()
    assert not (tmp_path / "set" / "journal").exists()


def test_shards_of_another_header_or_that_were_changed_are_written_anew(tmp_path):
    of = header((1200, 1700))
    interrupted(tmp_path, of)
    other = header((1200, 1700), teacher_hash="u" * 64)
    assert OutputSetWriter(str(tmp_path), other, shard_rows=(1200, 1700)).first_row == 0
    interrupted(tmp_path, of)
    changed(tmp_path / "shards" / "part-00000.arrow", 500.125)
    assert OutputSetWriter(str(tmp_path), of, shard_rows=(1200, 1700)).first_row == 0


def test_a_finished_set_is_left_as_it_is_and_one_of_another_teacher_removed(tmp_path):
    first = write(tmp_path)
    again = OutputSetWriter(str(tmp_path), header(), shard_rows=SHARDS)
    assert (again.is_finished, again.first_row) == (True, 1900)
    assert again.finish().hash == first.hash
    other = OutputSetWriter(str(tmp_path), header(teacher_hash="u" * 64), shard_rows=SHARDS)
    assert (other.is_finished, other.first_row) == (False, 0)
    assert not (tmp_path / "manifest.json").exists()


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpora")
    return [write_corpus(folder / str(n), random_rows(90, seed=n), rows_per_shard=60).uri for n in (0, 1)]


def stored(folder: Path, *, layers=((3,), (3, 1))) -> StoredOutputs:
    """Two teachers, of each a set for each of two corpora, whose rows are told apart by their logits."""
    sets = []
    for teacher in (0, 1):
        parts = []
        for corpus in (0, 1):
            of = header((60, 30), dtype="float16", teacher_hash=str(teacher), corpus_hash=str(corpus))
            with OutputSetWriter(str(folder / f"{teacher}{corpus}"), of, shard_rows=(60, 30)) as writer:
                for rows in blocks((60, 30)):
                    writer.add(rows, values(rows + 1000 * (2 * teacher + corpus), of))
                found = writer.finish()
            parts.append(StoredSet(found.uri, found.hash))
        sets.append(tuple(parts))
    return StoredOutputs(tuple(sets), ("logits", "cls_states", "dropout_scores"), layers)


def test_batches_of_a_mixture_have_each_rows_own_outputs_of_each_teacher(tmp_path, corpora):
    parts = [CorpusPart(corpora[0], 0.5), CorpusPart(corpora[1], 2.0)]
    spec = FeedSpec.make(parts, {"name": "mlm"}, None, seed=3, batch_size=16, stored=stored(tmp_path))
    builder = BatchBuilder(spec)
    rows = builder.plan.rows(1)
    texts = [builder.corpus.read_rows([row])[0] for row in rows]
    batch = builder.batch(rows, epoch=0, step=1)
    originals = [BatchBuilder(FeedSpec.make(uri, {"name": "mlm"}, None, seed=3)).corpus for uri in corpora]
    of = header((60, 30), dtype="float16")
    for place, text in enumerate(texts):
        [(part, row)] = [
            (part, row)
            for part, corpus in enumerate(originals)
            for row, other in enumerate(corpus.read_rows(range(90)))
            if np.array_equal(text, other)
        ]
        for teacher in (0, 1):
            expected = values(np.array([row + 1000 * (2 * teacher + part)]), of)
            logits, states = batch[f"teacher_{teacher}_logits"], batch[f"teacher_{teacher}_cls_states"]
            assert torch.equal(logits[place], torch.from_numpy(expected["logits"][0]))
            assert torch.equal(states[place, 0], torch.from_numpy(expected["cls_states"][0, 1]).float())
            assert batch[f"teacher_{teacher}_dropout_scores"][place] == expected["dropout_scores"][0]
    assert batch["teacher_0_cls_states"].shape == (len(rows), 1, 8)
    assert batch["teacher_1_cls_states"].shape == (len(rows), 2, 8)
    assert set(builder.corpus.located(rows)[0].tolist()) == {0, 1}


def test_a_set_that_changed_since_the_training_was_made_is_refused(tmp_path, corpora):
    found = stored(tmp_path)
    changed_set = StoredSet(found.sets[0][0].uri, "0" * 64)
    spec = FeedSpec.make(
        corpora[0], {"name": "mlm"}, None, seed=3, stored=StoredOutputs(((changed_set,),), ("logits",))
    )
    with pytest.raises(ValueError, match=r"changed: their hash is \w{64}, expected 0{64}"):
        _ = BatchBuilder(spec).reader
