"""Files of this machine that go with a submitted job: packed here, copied there to the storage that all nodes see.

In the storage each has the same place and time of change for ever, so a job that is submitted again finds its stages'
inputs unchanged, on another cluster too.
"""

import hashlib
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raydistill.atomic import first_folder
from raydistill.cluster.local_paths import LocalPath
from raydistill.credentials import VARIABLES
from raydistill.user_error import UserError

FOLDER = "uploads"
"""Folder of the files in the package, and in a storage."""
_TIMES = "times.json"
_MIB = 2**20
MOST_BYTES = 90 * _MIB
"""What Ray's job API takes is 100 MiB."""


@dataclass(frozen=True)
class Upload:
    """The files of one value of a job."""

    path: LocalPath
    digest: str
    """Of their names and content."""

    @property
    def folder(self) -> str:
        """Where the files' root lies below ``FOLDER``."""
        return f"{self.digest}/{self.path.root.name or 'root'}"

    def value(self, storage: str) -> str:
        """What stands in the job instead, given its storage."""
        path = Path(os.path.expanduser(self.path.value)).absolute()
        return str(Path(storage) / FOLDER / self.folder / path.relative_to(self.path.root))


def uploads(paths: Iterable[LocalPath]) -> list[Upload]:
    """The uploads of local paths; raises ValueError when they are too much for Ray's job API."""
    found = [Upload(path, _digest(path)) for path in paths]
    size = sum(path.num_bytes for path in {upload.digest: upload.path for upload in found}.values())
    if size > MOST_BYTES:
        named = ", ".join(f"{upload.path.key} ({upload.path.num_bytes / _MIB:.1f} MiB)" for upload in found)
        raise UserError(
            f"--upload takes {MOST_BYTES // _MIB} MiB, but there are {size / _MIB:.1f}: {named}; copy the large ones "
            "to a folder that all machines of the cluster see, and name it there"
        )
    return found


def _digest(path: LocalPath) -> str:
    digest = hashlib.sha256()
    for file in path.files:
        name = str(file.relative_to(path.root)).encode()
        content = hashlib.sha256(file.read_bytes()).digest()
        digest.update(len(name).to_bytes(8, "little") + name + content)
    return digest.hexdigest()[:16]


def write_package(
    package: Path, job_text: str, found: Sequence[Upload], *, variables: Mapping[str, str] | None = None
) -> None:
    """A zip file with ``job.yaml``, the uploads and a job's variables; the same content gives the same bytes."""
    files = {
        f"{upload.folder}/{file.relative_to(upload.path.root)}": file for upload in found for file in upload.path.files
    }
    times = {name: file.stat().st_mtime_ns for name, file in sorted(files.items())}
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "job.yaml", job_text.encode())
        if variables:
            _add(archive, VARIABLES, json.dumps(dict(sorted(variables.items()))).encode(), mode=0o600)
        if files:
            _add(archive, f"{FOLDER}/{_TIMES}", json.dumps(times).encode())
        for name, file in sorted(files.items()):
            _add(archive, f"{FOLDER}/{name}", file.read_bytes())


def _add(archive: zipfile.ZipFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    # A ZipInfo without a date has a fixed one.
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    archive.writestr(info, content, compress_type=zipfile.ZIP_DEFLATED)


def place(target: Path, digests: Iterable[str], *, source: Path) -> None:
    """Copy the uploads that are not in ``target`` yet from an unpacked package's ``source``, times of change included.

    Raises ValueError for one that is in neither, and OSError for a target that cannot be written.
    """
    for digest in digests:
        if (target / digest).is_dir():
            continue
        if not (source / digest).is_dir():
            raise UserError(f"{target / digest} is missing; submit the job's file again with --upload")
        with first_folder(target / digest) as made:
            shutil.copytree(source / digest, made, dirs_exist_ok=True)
            times = json.loads((source / _TIMES).read_text(encoding="utf-8"))
            for name, time_ns in times.items():
                first, _, rest = name.partition("/")
                if first == digest:
                    os.utime(made / rest, ns=(time_ns, time_ns))


def main(arguments: Sequence[str]) -> int:
    """Place uploads on the cluster, before the job runs: the target folder, then the digests."""
    target, *digests = arguments
    try:
        place(Path(target), digests, source=Path(FOLDER))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
