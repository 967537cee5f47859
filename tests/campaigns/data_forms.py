"""Files of every kind of source: well formed ones, drawn from a random generator, and changes of their bytes."""

import bz2
import datetime
import decimal
import gzip
import io
import json
import lzma
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mutations import ODD_VALUES, changed_data

CLASSES = ("neg", "pos")
TAGS = ("O", "B-PER", "I-PER")
_TEXTS = ["", " ", "\t", '"', 'a "b', "a,b", "a\tb", "w5\u2028w6", "w5\x85w6", "\ufeff", "\x00", "w" * 40_000, "漢字"]
"""Texts that formats write in ways of their own."""
Form = tuple[dict[str, bytes], dict[str, Any]]
"""Files by name, and the options of their source."""


def words(rng: random.Random) -> str:
    """A text of the toy tokenizer's words."""
    return " ".join(f"w{rng.randrange(5, 60)}" for _ in range(rng.randrange(1, 30)))


def _odd_text(rng: random.Random) -> str:
    return rng.choice(_TEXTS) if rng.random() < 0.03 else words(rng)


def _rows(rng: random.Random) -> list[dict[str, Any]]:
    return [{"text": _odd_text(rng), "label": rng.choice(CLASSES)} for _ in range(rng.randrange(1, 40))]


def _rows_changed(rows: list[Any], rng: random.Random) -> Any:
    """Rows as JSON has them, mostly with a change."""
    rows = json.loads(json.dumps(rows))
    for _ in range(rng.choice([0, 1, 1, 2])):
        rows = changed_data(rows, rng, others=[[{"text": value} for value in ODD_VALUES]])
    return rows


def _json(value: Any) -> bytes:
    return json.dumps(value, default=str).encode()


def csv_form(rng: random.Random) -> Form:
    """Comma separated, texts in quotes or not."""
    quote = rng.choice(['"', '"', ""])
    lines = [f"{quote}{row['text']}{quote},{row['label']}" for row in _rows(rng)]
    ending = rng.choice(["\n", "\n", "\r\n", "\r"])
    return {"a.csv": ending.join(["text,label", *lines, ""]).encode()}, {"name": "delimited", "label": "label"}


def tsv_form(rng: random.Random) -> Form:
    """Tab separated, with labels, scores or their classes."""
    lines = [f"{row['text']}\t{row['label']}\t{rng.choice([0, 1.5, -1, 'nan', '1e999'])}" for row in _rows(rng)]
    scores = {"column": "score", "threshold": 0.5, "names": list(CLASSES)}
    label = rng.choice(["label", -2, 1, scores, "score"])
    text = "\n".join(["text\tlabel\tscore", *lines, ""])
    return {"a.tsv": text.encode()}, {"name": "delimited", "label": label}


def jsonl_form(rng: random.Random) -> Form:
    """One object a line."""
    rows = _rows_changed(_rows(rng), rng)
    lines = [_json(row) for row in (rows if isinstance(rows, list) else [rows])]
    return {"a.jsonl": b"\n".join([*lines, b""])}, {"name": "delimited", "label": "label"}


def parquet_form(rng: random.Random) -> Form:
    """One file, columns of any type."""
    number = rng.randrange(0, 40)
    texts: list[Any] = [_odd_text(rng) for _ in range(number)]
    kinds: list[Callable[[int], Any]] = [
        lambda n: CLASSES[n % 2],
        lambda n: n % 2,
        lambda n: float(n) if n else float("nan"),
        lambda n: decimal.Decimal(n),
        lambda n: datetime.date(2001, 1, 1),
        lambda n: None,
        lambda n: b"\xff",
        lambda n: [n],
        lambda n: {"a": n},
        lambda n: n % 2 == 0,
    ]
    kind = rng.choice([kinds[0], *kinds])
    columns: dict[str, Any] = {"text": pa.array(texts, pa.string())}
    columns["label"] = pa.array([kind(n) for n in range(number)])
    if rng.random() < 0.3:
        odd: list[Any] = [pa.array(texts, pa.large_string()), pa.array(texts).dictionary_encode(), pa.nulls(number)]
        odd += [pa.array([text.encode() for text in texts], pa.binary()), pa.array([[text] for text in texts])]
        columns["text"] = rng.choice(odd)
    metadata = {
        b"huggingface": rng.choice([b"", b"{}", b"null", b"[", b'{"info": null}', b'{"info": {"features": 5}}'])
    }
    table = pa.table(columns)
    if rng.random() < 0.2:
        table = table.replace_schema_metadata(metadata)
    return {"a.parquet": _parquet(table, rng)}, {"name": "parquet", "label": "label"}


def _parquet(table: pa.Table, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    options = {
        "compression": rng.choice(["none", "snappy", "gzip", "zstd"]),
        "row_group_size": rng.choice([1, 10, 1000]),
    }
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def conll_form(rng: random.Random) -> Form:
    """A word and a tag a line."""
    lines = []
    for _ in range(rng.randrange(1, 30)):
        lines += [f"w{rng.randrange(5, 60)} X {rng.choice(TAGS)}" for _ in range(rng.randrange(1, 12))]
        lines += rng.choice([[""]] * 200 + [["-DOCSTART- X O", ""], [" "], ["w5 O"], ["\u00a0"], ["w5"]])
    return {"a.conll": "\n".join([*lines, ""]).encode()}, {"name": "conll"}


def squad_form(rng: random.Random) -> Form:
    """Nested, flat or one question a line."""
    paragraphs = []
    for number in range(rng.randrange(1, 6)):
        context = words(rng)
        answer = rng.choice(context.split())
        question = {
            "id": str(number),
            "question": words(rng),
            "answers": [{"text": answer, "answer_start": context.index(answer)}],
        }
        paragraphs.append({"context": context, "qas": [question]})
    document: Any = {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}
    flat = [{**paragraph["qas"][0], "context": paragraph["context"]} for paragraph in paragraphs]
    document = rng.choice([document, document, {"data": flat}])
    lines = rng.random() < 0.2
    for _ in range(rng.choice([0, 1, 1, 2])):
        document = changed_data(document, rng, others=[list(ODD_VALUES)])
    return {"a.json": b"\n".join(map(_json, flat)) if lines else _json(document)}, {"name": "squad"}


def text_form(rng: random.Random) -> Form:
    """Plain text."""
    parts = [_odd_text(rng) + rng.choice(["\n", "\n\n", "\r\n", "\x0c", "\u2029"]) for _ in range(rng.randrange(1, 60))]
    return {"a.txt": "".join(parts).encode()}, {"name": "text", "unit": rng.choice(["line", "paragraph", "file"])}


def glue_form(rng: random.Random) -> Form:
    """A folder of published TSV files, or of Parquet files."""
    if rng.random() < 0.3:
        table = {"sentence": [words(rng) for _ in range(9)], "label": [rng.choice([0, 1, -1, 2]) for _ in range(9)]}
        content = _parquet(pa.table(table), rng)
        return {"sst2/train-00000-of-00001.parquet": content}, {"name": "glue", "task": "sst2"}
    lines = [f"{words(rng)}\t{rng.choice(['0', '1', '1', '2', '', 'x'])}" for _ in range(rng.randrange(1, 30))]
    if rng.random() < 0.7:
        lines = [f"{words(rng)}\t{rng.randrange(2)}" for _ in range(rng.randrange(1, 30))]
    return {"SST-2/train.tsv": "\n".join(["sentence\tlabel", *lines, ""]).encode()}, {"name": "glue", "task": "sst2"}


def archive_form(rng: random.Random) -> Form:
    """A distribution: a wheel or an sdist, with a table or with texts, perhaps in an archive of its own."""
    inner, options = rng.choice([csv_form, tsv_form, jsonl_form, conll_form, text_form])(rng)
    (name, content), *_ = inner.items()
    if rng.random() < 0.4:
        content = bytes_changed(content, rng)
    member = rng.choice([f"p/{name}", f"p/{name}", f"p/{name}.gz", f"../{name}", f"/{name}", f"p/\u00e9{name}"])
    members = {member: gzip.compress(content) if member.endswith(".gz") else content, "p/b.txt": b"w5\n"}
    pattern = rng.choice([f"p/*{name}*", "**", "p/*", f"*{name}", "p/[", "p/a.zip!/p/*"])
    if "!" in pattern:
        members["p/a.zip"] = _zip(members, rng)
    packed = _zip(members, rng) if rng.random() < 0.5 else _tar(members, rng)
    options = {"name": "package_archive"} if options["name"] == "text" else options
    return {"p-1.0": packed}, {**options, "members": pattern}


def _zip(members: dict[str, bytes], rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    ) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _tar(members: dict[str, bytes], rng: random.Random) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=rng.choice(["w:", "w:gz", "w:bz2", "w:xz"])) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"p-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("p-1.0/p/link.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return stream.getvalue()


def pickle_form(rng: random.Random) -> Form:
    """A pickled list of arrays, or of something else."""
    rows: list[Any] = [np.array([2, *(rng.randrange(5, 60) for _ in range(20)), 3], dtype=np.uint16) for _ in range(9)]
    odd: list[Any] = [np.array([[1]]), np.array([1.5]), np.array(["a"]), np.array([None]), np.array([10**6]), [1], None]
    odd += [np.array([-1]), np.array([], dtype=np.int64), "x", {"a": 1}, np.array(5), 10**30, Path("/x"), print]
    if rng.random() < 0.5:
        rows[rng.randrange(len(rows))] = rng.choice(odd)
    value = rng.choice([rows, rows, rows, rows, tuple(rows), {"a": rows}, rows[0], None])
    return {"a.pickle": pickle.dumps(value, protocol=rng.choice([0, 2, 4, 5]))}, {"name": "legacy_pickle"}


def huggingface_form(rng: random.Random) -> Form:
    """A folder that ``save_to_disk`` would write, with one of its files changed."""
    table = pa.table({"text": [words(rng) for _ in range(9)], "label": [rng.randrange(2) for _ in range(9)]})
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    label = {"names": list(CLASSES), "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": label}
    info: Any = {"features": features}
    state: Any = {
        "_data_files": [{"filename": "data.arrow"}],
        "_fingerprint": "0" * 16,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    which = rng.choice(["info", "state", "none"])
    info = changed_data(info, rng, others=[list(ODD_VALUES)]) if which == "info" else info
    state = changed_data(state, rng, others=[list(ODD_VALUES)]) if which == "state" else state
    found = {"data.arrow": stream.getvalue(), "dataset_info.json": _json(info), "state.json": _json(state)}
    return found, {"name": "huggingface", "label": "label"}


FORMS = {
    form.__name__.removesuffix("_form"): form
    for form in (
        csv_form,
        tsv_form,
        jsonl_form,
        parquet_form,
        conll_form,
        squad_form,
        text_form,
        glue_form,
        archive_form,
        pickle_form,
        huggingface_form,
    )
}
"""By kind; the sources of nine modules read them."""


def bytes_changed(content: bytes, rng: random.Random) -> bytes:
    """The content of a file with one change of its bytes."""
    place, end = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
    sign = rng.choice(
        [b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n\n", b'"', b"\\ud83d", b"\xed\xa0\xbd", b"{", b"["]
    )
    odd = [
        content[:place],
        content[place:],
        content[:place] + sign + content[place:],
        content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :],
        content[: min(place, end)] + content[max(place, end) :],
        content[:place] + bytes(min(64, len(content) - place)) + content[place + 64 :],
        content * 50,
        content.replace(b"\n", rng.choice([b"\r", b"\r\n", b" ", b"\n\n"])),
        content.replace(b'"', rng.choice([b"", b"'", b'""'])),
        content.decode("latin-1").encode(rng.choice(["utf-16", "utf-16-le", "utf-7", "cp500"])),
        b"",
        b"\n",
        bytes(rng.randrange(256) for _ in range(200)),
        content[:place] + b"[" * 100_000 + content[place:],
        content[:place] + b"w5 " * 300_000 + content[place:],
    ]
    return rng.choice(odd)


def packed(name: str, content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A file as it is or packed, rightly or not."""
    ways: list[tuple[str, Callable[[bytes], bytes]]] = [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
    ]
    ending, pack = rng.choice(ways)
    content = rng.choice([pack, pack, bytes, lambda each: pack(each)[: rng.randrange(40)]])(content)
    return name + rng.choice([ending, ending, "", ".zip", ".zst"]), content
