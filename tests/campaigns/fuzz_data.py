"""Odd data files, each read by its source and encoded as ``binarize`` does: valid, or refused in lines that say why.

``python tests/campaigns/fuzz_data.py --cases 330 --seed 7``; ``--only N`` tries case N alone and leaves its files in
the folder that it prints. The kinds of files take turns. Each case is checked as before a job and then binarized, with
the data tasks in this process, so that no cluster is needed.
"""

import argparse
import dataclasses
import hashlib
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

import pyarrow as pa
import torch
from data_forms import CLASSES, FORMS, TAGS, bytes_changed, packed
from mutations import ODD_VALUES
from outcomes import Place, told, tried

from raydistill.config.named import SourceSpec
from raydistill.data import encoding
from raydistill.data.corpus_building import binarize
from raydistill.job.load import load_job
from raydistill.job.preflight import check_job
from raydistill.models.load import save_model
from raydistill.user_error import UserError
from toys.models import toy_bert
from toys.words import make_tokenizer

_CHARSETS = ["utf-16", "utf-7", "latin-1", "rot13", "hex", "idna", "utf-8"]


def main() -> int:
    """Try the cases and tell the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=330)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, help="Try one case alone, and leave its files.")
    parser.add_argument("--every", action="store_true", help="Print how every case ended, not the forbidden alone.")
    options = parser.parse_args()
    # With an address no cluster is asked for its cores.
    os.environ["RAY_ADDRESS"] = "none is asked"
    numbers = range(options.cases) if options.only is None else range(options.only, options.only + 1)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(encoding, "run_tasks", _here):
        save_model(toy_bert(2, dtype=torch.float32), make_tokenizer(), Path(folder))
        fuzzer = Fuzzer(options.seed, Path(folder))
        if options.only is not None:
            kept = Path(tempfile.mkdtemp(prefix="case-"))
            sys.stdout.write(f"{fuzzer.source(options.only, kept)} in {kept}\n")
        outcomes = tried(numbers, fuzzer, workers=options.workers)
        return told("data", outcomes, seed=options.seed, every=options.every)


def _here(
    task: Callable[[Mapping[str, Any]], Iterator[pa.Table]], items: Sequence[Any], schema: pa.Schema, **_options: Any
) -> Iterator[pa.Table]:
    """In place of ``run_tasks``: the tasks one after the other in this process."""
    for item in items:
        yield from task(item)


class Fuzzer:
    """Makes cases and binarizes them."""

    def __init__(self, seed: int, tokenizer: Path) -> None:
        self._seed, self._tokenizer = seed, tokenizer

    def _draw(self, number: int) -> tuple[str, random.Random]:
        kinds = list(FORMS)
        return kinds[number % len(kinds)], random.Random(f"{self._seed} {number}")

    def what(self, number: int) -> str:
        """The kind of the file."""
        return self._draw(number)[0]

    def source(self, number: int, folder: Path) -> dict[str, Any]:
        """Write the files of a case and return the section of their source."""
        kind, rng = self._draw(number)
        contents, options = FORMS[kind](rng)
        if rng.random() < 0.5:
            name = rng.choice(list(contents))
            contents[name] = bytes_changed(contents[name], rng)
        if kind in ("csv", "tsv", "jsonl", "conll", "squad", "text", "pickle"):
            ((name, content),) = contents.items()
            name = rng.choice([name] * 6 + [f"a [1]{name}", f"\u202e{name}", f"a\n{name}", f"{'x' * 200}{name}", "a"])
            contents = dict([packed(name, content, rng) if rng.random() < 0.15 else (name, content)])
        paths = [folder / name for name in contents]
        for path, content in zip(paths, contents.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if kind == "archive":
            options |= {"package": "p==1.0", **_as_cached(paths[0], folder)}
        else:
            options["path"] = str(folder if kind in ("glue", "huggingface") else paths[0])
        if rng.random() < 0.1:
            _replace_file(paths[0], rng)
        if rng.random() < 0.2:
            keys = [field.name for field in dataclasses.fields(SourceSpec.config_type(options["name"]))]
            odd = [*ODD_VALUES, *_CHARSETS, 0, 1, -1, "text", "label", "\t", ";"]
            options[rng.choice([*keys, "labels"])] = rng.choice(odd)
        return options

    def _encoding(self, number: int) -> dict[str, Any]:
        kind, rng = self._draw(number)
        if kind in ("conll", "squad", "glue"):
            return {
                "conll": {"name": "ner", "labels": list(TAGS), "max_length": 20},
                "squad": {"name": "qa", "max_length": 32, "stride": 8},
                "glue": {"name": "glue", "task": "sst2", "max_length": 20},
            }[kind]
        classes = {"name": "classification", "labels": list(CLASSES), "max_length": 20}
        mlm = {"name": "mlm", "max_length": 20}
        return mlm if kind in ("text", "pickle") else rng.choice([classes, classes, {**classes, "labels": []}, mlm])

    def __call__(self, number: int, place: Place) -> None:
        """Check one case and binarize it; raises what either raises."""
        os.environ["RAYDISTILL_CACHE"] = str(place.temporary)
        stage = {
            "kind": "binarize",
            "source": self.source(number, place.temporary),
            "encoding": self._encoding(number),
            "tokenizer": str(self._tokenizer),
            "validation": 0.5,
        }
        job = load_job({"name": "data", "storage": str(place.storage), "stages": {"corpus": stage}})
        refusal: UserError | None = None
        try:
            check_job(job)
        except UserError as error:
            # What is refused early must be refused well later too: files change while a job runs.
            refusal = error
        config: Any = job.config.stages["corpus"]
        binarize(
            sources=config.weighted_sources,
            encoding=config.encoding,
            tokenizer_folder=str(self._tokenizer),
            output=str(place.storage / "corpus"),
            validation=config.validation,
        )
        if refusal is not None:
            raise refusal


def _as_cached(archive: Path, folder: Path) -> dict[str, Any]:
    """Put a distribution where one lies that was fetched before."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    target = folder / "archives" / digest / archive.name
    target.parent.mkdir(parents=True, exist_ok=True)
    archive.rename(target)
    return {"sha256": digest}


def _replace_file(path: Path, rng: random.Random) -> None:
    """Put something in a file's place that is none."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    change = rng.choice(["nothing", "folder", "loop", "pipe", "device"])
    if change == "folder":
        path.mkdir()
    elif change == "pipe":
        os.mkfifo(path)
    elif change in ("loop", "device"):
        path.symlink_to(path if change == "loop" else "/dev/null")


if __name__ == "__main__":
    sys.exit(main())
