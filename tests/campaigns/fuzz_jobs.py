"""Mutated jobs and search spaces, each validated: valid, or refused in lines that say why.

``python tests/campaigns/fuzz_jobs.py --cases 1500 --seed 7``; ``--only N M`` prints and tries these cases alone.
A case is a shipped job or space with one to three changes of its data or its text, or with odd keys on the command
line; its number and the seed decide all of them. No package index and no hub is asked: what the shipped files name is
fetched before, and nothing else is there.
"""

import argparse
import io
import os
import random
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"

from mutations import an_override, changed_data, changed_text, written
from outcomes import Place, told, tried

from raydistill.cli import validate
from raydistill.config import yaml_text
from raydistill.data.published import archives, package_index
from raydistill.job import files
from raydistill.store_paths import cache_folder
from raydistill.user_error import UserError
from toys.shipped import save_hub, save_own_files, standing_in


def main() -> int:
    """Try the cases and tell the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1500)
    parser.add_argument("--first", type=int, default=0, help="Number of the first case.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", type=int, nargs="+", help="Try these cases alone, and print each first.")
    parser.add_argument("--every", action="store_true", help="Print how every case ended, not the forbidden alone.")
    options = parser.parse_args()
    os.environ["RAYDISTILL_CACHE"] = str(cache_folder().absolute())
    with tempfile.TemporaryDirectory() as folder, standing_in(save_hub(Path(folder) / "hub")):
        fuzzer = Fuzzer(options.seed, save_own_files(Path(folder) / "own"))
        fuzzer.warm()
        with mock.patch.object(archives, "download", _not_there):
            numbers = options.only or range(options.first, options.first + options.cases)
            for number in options.only or []:
                name, content, overrides = fuzzer.case(number)
                sys.stdout.write(f"{name} {overrides}\n{content.decode(errors='backslashreplace')}\n")
            outcomes = tried(numbers, fuzzer, workers=options.workers, caches=[cache_folder()])
            return told("jobs", outcomes, seed=options.seed, every=options.every)


def _not_there(package: str, sha256: str, folder: Path) -> Path:
    """In place of ``download``: an index without packages, so that none is asked for names that nobody meant."""
    package_index._pinned(package)
    raise UserError(f"package is {package!r}, which the configured package index does not have; correct it")


class Fuzzer:
    """Makes cases and validates them."""

    def __init__(self, seed: int, own: Path) -> None:
        texts = {name: files.shipped_text(files.JOBS, name) for name in files.names(files.JOBS)}
        texts |= {f"spaces/{name}": files.shipped_text(files.SPACES, name) for name in files.names(files.SPACES)}
        self._texts = {name: _with_own(text, own) for name, text in texts.items()}
        self._data = {name: yaml_text.parse(text, source=name) for name, text in self._texts.items()}
        self._seed, self._own = seed, own

    def warm(self) -> None:
        """Validate every file as it is: all must be valid, everything is imported, and what they name is fetched."""
        before = Path.cwd()
        os.chdir(self._own)
        try:
            with redirect_stdout(io.StringIO()):
                validate([*self._texts, f"storage={self._own}"], as_json=False, debug=True)
        finally:
            os.chdir(before)

    def case(self, number: int) -> tuple[str, bytes, list[str]]:
        """The name of what is changed, the text that comes of it, and the keys on the command line."""
        rng = random.Random(f"{self._seed} {number}")
        name = rng.choice(list(self._texts))
        kind = rng.choices(["data", "text", "override"], [6, 2, 2])[0]
        if kind == "text":
            return name, changed_text(self._texts[name], rng), []
        data = yaml_text.plain_copy(self._data[name])
        if kind == "override":
            return name, self._texts[name].encode(), [an_override(data, rng) for _ in range(rng.choice([1, 1, 2]))]
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            data = changed_data(data, rng, others=list(self._data.values()))
        return name, written(data).encode(), []

    def what(self, number: int) -> str:
        """The name of what is changed, and the keys on the command line."""
        name, _, overrides = self.case(number)
        return f"{name} {' '.join(overrides)}"[:400]

    def __call__(self, number: int, place: Place) -> None:
        """Validate one case as the command line does; raises what it raises."""
        name, content, overrides = self.case(number)
        path = place.temporary / f"{name.replace('/', '_')}.yaml"
        path.write_bytes(content)
        given = [] if any(each.startswith("storage=") for each in overrides) else [f"storage={place.storage}"]
        validate([str(path), *given, *overrides], as_json=False, debug=False)


def _with_own(text: str, own: Path) -> str:
    """A shipped text with the absolute paths of users' own files."""
    for folder in ("models/", "data/"):
        text = text.replace(f" {folder}", f" {own}/{folder}")
    return text


if __name__ == "__main__":
    sys.exit(main())
