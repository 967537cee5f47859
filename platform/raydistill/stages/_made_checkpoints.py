"""Checkpoints that are made of others once, in the cache: an adapter's sum with its base, a model with named blocks."""

import copy
import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from raydistill.atomic import first_folder
from raydistill.models import adapters
from raydistill.models.blocks import family_of
from raydistill.models.blocks.generic import BLOCKS
from raydistill.models.blocks.generic import Family as Generic
from raydistill.models.load import load_config
from raydistill.store_paths import cache_folder, files_below
from raydistill.tracking.registration import content_hash
from raydistill.user_error import UserError


def content_of(folder: Path) -> str:
    """SHA-256 over a checkpoint's files, found out once for many stages that name it."""
    return _content_of(folder, times_of(folder))


@lru_cache(maxsize=64)
def _content_of(folder: Path, files: tuple[tuple[int, int], ...]) -> str:
    return content_hash(folder)


def times_of(folder: Path) -> tuple[tuple[int, int], ...]:
    """Times and sizes of a folder's files, so that a changed one is read again."""
    files = [path.stat() for path in files_below(folder)]
    return tuple(sorted((file.st_mtime_ns, file.st_size) for file in files))


def whole_model(reference: str, folder: Path, base_at: Callable[[str], Path]) -> Path:
    """The folder of a plain model: that of an adapter's sum with its base, made once, or the one that is given.

    ``base_at`` finds a base by the name that the adapter has for it. Raises UserError for one that is missing.
    """
    if not adapters.is_adapter(folder):
        return folder
    name = adapters.base_of(folder)
    try:
        base = base_at(name)
        if not (base / "config.json").is_file() or adapters.is_adapter(base):
            raise UserError("no plain model lies there")
    except UserError as error:
        raise UserError(
            f"checkpoint is {reference!r}, an adapter of {name!r}, which is missing ({error}); put the base there, or "
            f"correct base_model_name_or_path in its {adapters.CONFIG}"
        ) from None
    target = cache_folder() / "models" / "merged" / f"{content_of(folder)[:16]}-{content_of(base)[:16]}"
    if not target.is_dir():
        with first_folder(target) as made:
            adapters.write_merged(folder, base, made)
    return target


def with_blocks(folder: Path, blocks: str) -> Path:
    """A folder of links to a checkpoint's files, but for its configuration, which names the list of blocks."""
    config = naming_blocks(load_config(folder), blocks)
    key = hashlib.sha256(repr((str(folder.resolve()), times_of(folder), blocks)).encode()).hexdigest()
    target = cache_folder() / "models" / "blocks" / key[:16]
    if not target.is_dir():
        with first_folder(target) as made:
            for path in folder.iterdir():
                (made / path.name).symlink_to(path.resolve())
            (made / "config.json").unlink()
            config.save_pretrained(made)
    return target


def naming_blocks(config: Any, blocks: str) -> Any:
    """A copy of a configuration that names the list of blocks; raises ValueError where a model has no such list."""
    if family_of(config).IN_PARTS:
        raise UserError(f"blocks is {blocks!r}, but a {config.model_type} runs in parts and needs none; leave it out")
    named = copy.deepcopy(config)
    setattr(named, BLOCKS, blocks)
    Generic.has(named)
    return named
