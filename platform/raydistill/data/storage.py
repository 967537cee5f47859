"""Files under a local path, in an object store, or at any URI that pyarrow.fs or fsspec opens."""

import hashlib
import os
import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, cast

import fsspec
import pyarrow as pa
from pyarrow import fs as arrow_fs

from raydistill.data import object_store
from raydistill.store_paths import is_in_store, remote_uri
from raydistill.user_error import UserError

_PIECE_BYTES = 2**22


class HashingStream:
    """A binary output stream that counts and hashes (SHA-256) what is written through it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self._position = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Write bytes or a buffer; returns their number."""
        view = memoryview(data).cast("B")
        self._stream.write(view)
        self._hash.update(view)
        self._position += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._position

    def flush(self) -> None:
        """Hand over what the stream below buffers."""
        self._stream.flush()

    def close(self) -> None:
        """Close the stream below; further calls do nothing."""
        if not self.closed:
            self.closed = True
            self._stream.close()

    def hexdigest(self) -> str:
        """SHA-256 of everything written."""
        return self._hash.hexdigest()


class Folder:
    """A folder on some storage, with paths relative to it."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        self.uri = os.fspath(uri)
        # A local path may stand for a place of an object store.
        self.fs, self.path = _filesystem(remote_uri(self.uri) or self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the folder lies on this machine's file system, where a folder is renamed in one step."""
        return isinstance(self.fs, arrow_fs.LocalFileSystem)

    def full_path(self, name: str) -> str:
        """Path of a file below the folder, as the file system wants it."""
        return str(PurePosixPath(self.path) / name) if name else self.path

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder of this name."""
        return bool(self.fs.get_file_info(self.full_path(name)).type != arrow_fs.FileType.NotFound)

    def read_bytes(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError when there is none."""
        with self.fs.open_input_file(self.full_path(name)) as stream:
            return cast(bytes, stream.read())

    def open_input(self, name: str) -> Any:
        """A seekable pyarrow input file."""
        return self.fs.open_input_file(self.full_path(name))

    def open_output(self, name: str) -> HashingStream:
        """A hashing output stream; missing folders are made."""
        path = self.full_path(name)
        if not isinstance(self.fs, arrow_fs.S3FileSystem):
            # An object store has no folders, only empty objects that stand for them.
            self.fs.create_dir(str(PurePosixPath(path).parent), recursive=True)
        return HashingStream(self.fs.open_output_stream(path))

    def write_bytes(self, name: str, content: bytes) -> str:
        """Write a file and return its SHA-256."""
        stream = self.open_output(name)
        stream.write(content)
        stream.close()
        return stream.hexdigest()

    def write_at_once(self, name: str, content: bytes) -> None:
        """Write a small file so that a reader sees all of it or none, whatever interrupts this process."""
        if not self.is_local:
            self.write_bytes(name, content)
            return
        self.write_bytes(f"{name}.part", content)
        os.replace(self.full_path(f"{name}.part"), self.full_path(name))

    def sizes(self, name: str = "") -> dict[str, int]:
        """Bytes of each file in the folder or in one below it, by its path from here; empty where there is none."""
        selector = arrow_fs.FileSelector(self.full_path(name), allow_not_found=True)
        prefix = f"{name}/" if name else ""
        infos = self.fs.get_file_info(selector)
        return {prefix + info.base_name: int(info.size) for info in infos if info.type == arrow_fs.FileType.File}

    def sha256(self, name: str) -> str:
        """SHA-256 of a file, which is never held as a whole; raises FileNotFoundError when there is none."""
        digest = hashlib.sha256()
        with self.open_input(name) as stream:
            while piece := stream.read(_PIECE_BYTES):
                digest.update(piece)
        return digest.hexdigest()

    def delete(self, name: str = "") -> None:
        """Remove the folder, or one below it, with all that it holds, if it is there."""
        if self.exists(name):
            self.fs.delete_dir(self.full_path(name))

    def replace(self, target: "Folder") -> None:
        """Rename this local folder to ``target``, whose earlier content is removed first."""
        target.delete()
        self.fs.create_dir(str(PurePosixPath(target.path).parent), recursive=True)
        self.fs.move(self.path, target.path)


def sibling(uri: str, suffix: str) -> str:
    """The URI of a folder beside ``uri`` whose name continues with ``suffix``."""
    return uri.rstrip("/") + suffix


def join(uri: str, name: str) -> str:
    """The URI of ``name`` below ``uri``."""
    return uri.rstrip("/") + "/" + name


def glob_files(pattern: str) -> list[tuple[str, str]]:
    """Files that match a path, URI or glob, sorted, each with a fingerprint of its size and time of change.

    ``*`` and ``?`` stop at ``/``, ``**`` does not. A file whose name is the pattern itself is the only match. Raises
    ValueError, naming the folder searched, for no match.
    """
    scheme, separator, path = pattern.rpartition("://")
    fixed = re.split(r"[*?\[]", path)[0]
    root = path if fixed == path else fixed.rpartition("/")[0] or ("/" if fixed.startswith("/") else ".")
    found = []
    # In a URI of other storage the characters of a glob mean something else.
    if fixed == path or not separator or is_in_store(pattern):
        named = Folder(pattern)
        found = [info for info in named.fs.get_file_info([named.path]) if info.type == arrow_fs.FileType.File]
    if not found and fixed != path:
        folder = Folder(f"{scheme}{separator}{root}")
        selector = arrow_fs.FileSelector(folder.path, allow_not_found=True, recursive=True)
        below = (path.removeprefix(root) if fixed.rpartition("/")[0] else path).split("/")
        full = "/".join([escape_glob(folder.path.rstrip("/")), *(name for name in below if name not in ("", "."))])
        files = (info for info in folder.fs.get_file_info(selector) if info.type == arrow_fs.FileType.File)
        found = [info for info in files if glob_regex(full).fullmatch(info.path)]
    if not found:
        raise UserError(f"path is {pattern!r}, which matches no file below {root!r}; correct it")
    infos = sorted(found, key=lambda info: info.path)
    return [(f"{scheme}{separator}{info.path}", f"{info.size} bytes, {info.mtime_ns}") for info in infos]


@lru_cache(maxsize=256)
def glob_regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression for whole names: ``*`` and ``?`` stop at ``/``, ``**`` does not."""
    translated = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    return re.compile("".join(translated.get(token) or _literal_or_class(token) for token in tokens), re.DOTALL)


def _literal_or_class(token: str) -> str:
    if not token.startswith("["):
        return re.escape(token)
    negated = token[1] == "!"
    inner = token[2 if negated else 1 : -1].replace("\\", "\\\\")
    return f"[{'^' if negated else ''}{inner}]"


def escape_glob(path: str) -> str:
    """A glob that matches a path alone."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _filesystem(uri: str) -> tuple[Any, str]:
    if "://" not in uri:
        return arrow_fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    if is_in_store(uri):
        return object_store.filesystem(uri), object_store.place(uri)
    try:
        return arrow_fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid:
        filesystem, path = fsspec.core.url_to_fs(uri)
        return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), path
