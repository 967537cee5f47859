"""A classifier's logits for a corpus, stored without Ray, for benchmarks that train on them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raydistill.data.corpus import Corpus
from raydistill.data.sealed_table import ROW_GROUP_ROWS
from raydistill.data.stored_outputs import StoredOutputs, StoredSet
from raydistill.data.teacher_inference import TeacherOutputs, TeacherRun
from raydistill.data.teacher_outputs import Header, OutputSpec
from raydistill.data.teacher_outputs_writer import OutputSetWriter


def stored_logits(
    corpus_folder: Path, teacher: Path, target: Path, *, labels: Sequence[str], batch_size: int, precision: str = "fp32"
) -> StoredOutputs:
    """What a training reads, written to ``target``; the corpus has one shard and the task's own classes, ``labels``."""
    corpus = Corpus.open(str(corpus_folder))
    num_rows = len(corpus.lengths)
    kept = OutputSpec(("logits",), (), "float32", 1)
    header = Header(
        teacher="teacher",
        teacher_hash="",
        tokenizer_hash=corpus.manifest.tokenizer.hash,
        corpus_hash=corpus.hash,
        rows=num_rows,
        task={"name": "classification"},
        labels=tuple(labels),
        kinds=kept.kinds,
        layers=(),
        columns=kept.columns(num_classes=len(labels), hidden_size=0, vocab_size=0),
        codec="none",
        precision=precision,
        options={"mask_seed": 0, "dropout": None, "batch_size": batch_size},
    )
    outputs = TeacherOutputs(TeacherRun(str(teacher), (), (corpus.uri,), (str(target),), (header,)))
    with OutputSetWriter(str(target), header, shard_rows=(num_rows,)) as writer:
        for rows in np.array_split(np.arange(num_rows), -(-num_rows // ROW_GROUP_ROWS)):
            writer.add(rows, outputs.of(0, rows))
        found = writer.finish()
    return StoredOutputs(((StoredSet(found.uri, found.hash),),), ("logits",))
