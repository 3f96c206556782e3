"""Test how a zip, a folder, a file or a stream is opened, and what is refused."""

import io
import json
import os
import re
import zipfile
from pathlib import Path

import pytest

from convstore.transfer import export_files
from convstore.transfer.export_files import open_export_files
from convstore.transfer.imported import Problem
from tests.transfer.reading import make_zip

ANY_JSON = re.compile(r".*\.json")


def problems_of(data: bytes) -> list[str]:
    with open_export_files(io.BytesIO(data), "sample") as files:
        return [problem.reason for problem in files.problems]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "the name is an absolute path"),
        ("C:\\secret.json", "the name is an absolute path"),
        ("a/../../b.json", 'the name leads out of the folder ("..")'),
        ("..\\b.json", 'the name leads out of the folder ("..")'),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_and_the_others_are_read(name: str, reason: str) -> None:
    with open_export_files(io.BytesIO(make_zip({name: b"1", "a.json": b"2"}))) as files:
        assert [problem.reason for problem in files.problems] == [reason]
        assert [file.name for file in files.select_json(ANY_JSON)] == ["a.json"]
        assert files.read_bytes("a.json", 10) == b"2"


def test_a_zip_bomb_is_refused_by_its_ratio() -> None:
    assert problems_of(make_zip({"a.json": bytes(12 * 2**20)})) == [
        "it is more than 400 times larger than its compressed form"
    ]


def test_a_zip_of_too_many_or_too_large_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_zip({f"{number}.json": b"12" for number in range(3)})
    monkeypatch.setattr(export_files, "MAX_FILES", 2)
    assert problems_of(data) == ["the zip has more than 2 files"]
    monkeypatch.setattr(export_files, "MAX_FILES", 3)
    monkeypatch.setattr(export_files, "MAX_TOTAL_BYTES", 5)
    assert problems_of(data) == ["the zip's files are larger than 0 GiB together"]
    monkeypatch.setattr(export_files, "MAX_ZIP_TABLE_BYTES", 10)
    assert problems_of(data) == ["the zip's table of contents is larger than 0 MiB"]


def test_an_encrypted_file_and_another_compression_are_refused() -> None:
    data = bytearray(make_zip({"a.json": b"12"}))
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    assert problems_of(bytes(data)) == ["it is encrypted"]
    assert problems_of(make_zip({"a.json": b"12"}, zipfile.ZIP_BZIP2)) == ["its compression is not deflate"]


def test_many_refused_files_are_counted() -> None:
    reasons = problems_of(make_zip({f"../{number}": b"" for number in range(25)}))

    assert len(reasons) == 21
    assert reasons[-1] == "5 more files were refused"


def test_a_damaged_zip_is_one_problem() -> None:
    (reason,) = problems_of(b"PK\x03\x04 and nothing else")
    assert reason.startswith("the zip is damaged: ")


def test_files_of_operating_systems_are_passed_over() -> None:
    with open_export_files(
        io.BytesIO(make_zip({"__MACOSX/a.json": b"", "x/._a.json": b"", ".DS_Store": b""}))
    ) as files:
        assert files.files == {}
        assert files.problems == ()


def test_a_link_out_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("1")
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "a.json").write_text("2")
    (folder / "b.json").symlink_to(tmp_path / "secret.json")
    (folder / "loop").symlink_to(folder)

    with open_export_files(folder) as files:
        assert list(files.files) == ["a.json"]
        assert files.problems == (Problem("b.json", "it is a link to a file outside of the folder"),)


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    with open_export_files(tmp_path / "none.zip") as files:
        assert files.problems == (Problem("none.zip", "it cannot be read: No such file or directory"),)


def test_a_file_that_is_larger_than_a_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bytes(11))
    with open_export_files(tmp_path) as files:
        assert files.read_bytes("a.png", 11) == bytes(11)
        assert files.read_bytes("a.png", 10) is None


def test_a_pipe_is_read_once_and_refused_if_it_is_a_zip() -> None:
    for data, expected in ((b"[1]", ()), (make_zip({}), ("a zip cannot be read from a pipe; give its path",))):
        end, start = os.pipe()
        os.write(start, data)
        os.close(start)
        with open(end, "rb") as pipe, open_export_files(pipe, "-") as files:  # noqa: PTH123
            assert tuple(problem.reason for problem in files.problems) == expected
            for file in files.select_json(ANY_JSON):
                with file.open() as stream:
                    assert json.load(stream) == [1]
            assert not pipe.closed
