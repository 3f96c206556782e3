"""Test that `say -a` sends attachments, and that `show` prints or saves them."""

import base64
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convstore import Store
from convstore.cli.render.media_types import choose_extension, format_size, guess_by_content, guess_by_name
from convstore.testing import ChatServer, Reply
from tests.cli.program import Program, Rows
from tests.cli.test_say import read_sent_messages

BODY = bytes(range(256)) * 192  # 48 KiB
PNG = b"\x89PNG\r\n\x1a\n" + BODY[8:]
WAV = b"RIFF\x00\x00\x00\x00WAVE" + BODY * 25
PDF = b"%PDF-1.7\n" + BODY
BINARY = b"\x00\x01\x02" + BODY


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, bytes], str]:
    """Return a function that writes a file and returns its file path."""

    def write(name: str, data: bytes) -> str:
        path = tmp_path / "files" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path)

    return write


File = Callable[[str, bytes], str]


# --- what is sent ---


def make_image(kind: str, data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{encode(data)}"}}


def make_sound(kind: str, data: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": encode(data), "format": kind}}


def make_file(name: str, kind: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "file": {"filename": name, "file_data": f"data:{kind};base64,{encode(data)}"}}


def make_text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


JPEG, GIF, WEBP = b"\xff\xd8\xff\xe0 jpeg", b"GIF89a...", b"RIFF\n\n\n\nWEBPVP8 "
TAGGED, FRAME = b"ID3\x04\x00rest", b"\xff\xfb\x90\x00rest"
ASCII_PDF, LATIN = b"%PDF-1.4 all of it ASCII", b"caf\xe9"


@pytest.mark.parametrize(
    ("name", "data", "part"),
    [
        ("a.png", PNG, make_image("image/png", PNG)),
        ("lies.txt", JPEG, make_image("image/jpeg", JPEG)),
        ("a", GIF, make_image("image/gif", GIF)),
        ("a.png", WEBP, make_image("image/webp", WEBP)),
        ("a.wav", WAV, make_sound("wav", WAV)),
        ("a.bin", TAGGED, make_sound("mp3", TAGGED)),
        ("a.mp3", FRAME, make_sound("mp3", FRAME)),
        ("report.pdf", PDF, make_file("report.pdf", "application/pdf", PDF)),
        ("plain.doc", ASCII_PDF, make_file("plain.doc", "application/pdf", ASCII_PDF)),
        ("a.zip", BINARY, make_file("a.zip", "application/zip", BINARY)),
        ("中文.xyz", BINARY, make_file("中文.xyz", "application/octet-stream", BINARY)),
        ("latin.txt", LATIN, make_file("latin.txt", "text/plain", LATIN)),
        ("notes.md", "# 北京\n\nyes\n".encode(), make_text("notes.md:\n\n# 北京\n\nyes\n")),
        ("a.svg", b"<svg/>", make_text("a.svg:\n\n<svg/>")),
    ],
)
def test_the_content_of_a_file_decides_which_part_it_becomes(
    program: Program, chat_server: ChatServer, file: File, name: str, data: bytes, part: dict[str, Any]
) -> None:
    program("new")
    ran = program("say", "What is it?", "-a", file(name, data))
    assert (ran.code, ran.err) == (0, "")
    assert read_sent_messages(chat_server) == [{"role": "user", "content": [make_text("What is it?"), part]}]


def test_the_url_of_an_image_is_sent_unchanged(program: Program, chat_server: ChatServer) -> None:
    program("new")
    url = "HTTPS://example.org/a b.png?x=%20&y=中"
    assert program("say", "What?", "--attach", url).code == 0
    assert read_sent_messages(chat_server)[0]["content"][1:] == [{"type": "image_url", "image_url": {"url": url}}]


def test_attachments_follow_the_text_in_order_and_are_sent_again_with_the_next_message(
    on_each: Program, chat_server: ChatServer, file: File
) -> None:
    on_each("new")
    png, wav, pdf = file("a.png", PNG), file("a.wav", WAV), file("a.pdf", PDF)
    assert on_each("say", "These:", "-a", pdf, "-a", png, "-a", wav, "-a", png, "--sender", "ann").code == 0
    first = read_sent_messages(chat_server)[0]
    assert [part["type"] for part in first["content"]] == ["text", "file", "image_url", "input_audio", "image_url"]
    assert (first["content"][0]["text"], first["name"]) == ("These:", "ann")
    on_each("say", "And?")
    assert read_sent_messages(chat_server)[0] == first
    assert read_sent_messages(chat_server)[2] == {"role": "user", "content": "And?"}


def test_an_attachment_needs_no_text(program: Program, chat_server: ChatServer, file: File) -> None:
    program("new")
    for arguments, stdin in (([], None), ([], b""), ([""], None), (["-"], b" \n")):
        assert program("say", *arguments, "-a", file("a.png", PNG), stdin=stdin).code == 0
        assert [part["type"] for part in read_sent_messages(chat_server)[-1]["content"]] == ["image_url"]


def test_the_text_may_come_from_standard_input(program: Program, chat_server: ChatServer, file: File) -> None:
    program("new")
    for arguments, text in (([], "piped"), (["-"], "piped"), (["given"], "given\n\npiped")):
        assert program("say", *arguments, "-a", file("a.png", PNG), stdin=b"piped\n").code == 0
        assert read_sent_messages(chat_server)[-1]["content"][0] == {"type": "text", "text": text}
        assert len(read_sent_messages(chat_server)[-1]["content"]) == 2


def test_the_title_of_a_new_conversation_is_the_text_or_the_names_of_the_attachments(
    program: Program, file: File
) -> None:
    assert program("say", "--new", "What is it?", "-a", file("a.png", PNG)).code == 0
    assert program("say", "--new", "-a", file("b.png", PNG), "-a", "https://example.org/c/d.png").code == 0
    assert [found["title"] for found in program("list", "--json").json] == ["b.png, d.png", "What is it?"]


def test_dry_run_shows_the_parts_and_stores_nothing(
    program: Program, chat_server: ChatServer, rows: Rows, file: File
) -> None:
    program("new")
    ran = program("say", "What?", "-a", file("a.png", PNG), "--dry-run")
    assert ran.json["messages"][0]["content"][1]["image_url"]["url"] == f"data:image/png;base64,{encode(PNG)}"
    assert (chat_server.requests, rows.count, rows("SELECT * FROM convstore_attachments")) == ([], 0, [])


def test_an_idempotency_key_covers_the_attachments(program: Program, chat_server: ChatServer, file: File) -> None:
    program("new")
    png, other = file("a.png", PNG), file("b.png", PNG + b"x")
    for _ in range(2):
        assert program("say", "What?", "-a", png, "--key", "k").code == 0
    assert len(chat_server.requests) == 1
    program("say", "What?", "-a", other, "--key", "k").failed(5, "idempotency key")


# --- what cannot be sent ---


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nowhere.png", "No such file"),
        ("folder", "Is a directory"),
        ("empty.png", "empty"),
        ("-", "No such file"),
        ("", "cannot be attached"),
        ("/dev/zero", "larger than 256 MiB"),
        ("http:///a.png", "names no host"),
        ("https://[::1/a.png", "names no host"),
    ],
)
def test_a_file_that_cannot_be_attached_is_an_error_and_nothing_is_stored(
    program: Program,
    chat_server: ChatServer,
    rows: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    words: str,
) -> None:
    program("new")
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("empty.png").touch()
    Path("good.png").write_bytes(PNG)
    for how in ([], ["--dry-run"], ["--new"]):
        program("say", "What?", "-a", "good.png", "-a", given, *how).failed(2, words)
    assert (rows.count, rows.turns, len(program("list", "--json").json), chat_server.requests) == (0, [], 1, [])


# --- what is shown ---


def test_show_prints_a_label_for_each_attachment(program: Program, file: File, rows: Rows) -> None:
    program("new")
    files = [file("a.png", PNG), file("a.wav", WAV), file("report.pdf", PDF)]
    given = [argument for path in files for argument in ("-a", path)]
    program("say", "What?", *given, "-a", "https://example.org/a.png")
    names = [
        "What?",
        "[image/png, 48 KiB]",
        "[audio wav, 1.2 MiB]",
        "[file report.pdf, application/pdf, 48 KiB]",
        "[image https://example.org/a.png]",
    ]
    assert "1 user\n" + "\n".join(names) + "\n\n2 assistant" in program("show").out
    assert program("show", "--json").json["messages"][0]["message"]["content"][1]["image_url"] == {
        "url": f"data:image/png;base64,{encode(PNG)}"
    }


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"content": [{"type": "file", "file": {"file_id": "file-1"}}]}, "[file file-1]"),
        ({"content": [{"type": "file", "file": {"filename": "a.pdf", "file_id": "file-1"}}]}, "[file a.pdf, file-1]"),
        ({"content": [{"type": "file", "file": {}}]}, "[file]"),
        ({"content": [{"type": "file", "file": {"file_data": encode(b"\0abc")}}]}, None),
        ({"content": [{"type": "image_url", "image_url": "https://a/b"}]}, "[image https://a/b]"),
        (
            {"content": [{"type": "image_url", "image_url": {"url": "https://a/b\n\x1b[31m"}}]},
            "[image https://a/b ␛[31m]",
        ),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,!"}}]}, "[image_url]"),
        ({"content": [{"type": "image_url"}]}, "[image_url]"),
        ({"content": [{"type": "x_vendor", "x": 1}]}, "[x_vendor]"),
        (
            {"content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "opus"}}]},
            "[audio opus, 3 bytes]",
        ),
        ({"content": [{"type": "input_audio", "input_audio": {"data": "AA\nAA"}}]}, "[audio, 3 bytes]"),
        ({"content": [{"type": "input_audio", "input_audio": {"data": "?"}}]}, "[input_audio]"),
        (
            {"content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
            "[image/png, 3 bytes]",
        ),
        ({"content": None, "audio": {"id": "a", "data": encode(WAV)}}, "[audio wav, 1.2 MiB]"),
        ({"content": None, "audio": {"id": "a", "data": encode(BODY)}}, "[audio, 48 KiB]"),
        ({"content": None, "audio": {"id": "a"}}, "[audio]"),
        (
            {"content": "Here.", "images": [{"image_url": {"url": f"data:;base64,{encode(PNG)}"}}]},
            "Here.\n[image/png, 48 KiB]",
        ),
        ({"content": None, "x_blob": [encode(BINARY)]}, "[application/octet-stream, 48 KiB]"),
        ({"content": encode(BODY)}, encode(BODY)),
        ({"content": [{"type": "text", "text": encode(BODY)}]}, encode(BODY)),
    ],
)
def test_every_part_of_a_message_has_a_label(program: Program, message: dict[str, Any], shown: str | None) -> None:
    id = program("new").out.strip()
    with Store(os.environ["CONVSTORE_DB"]) as store:
        store.append(id, {"role": "assistant", **message})
    shown = shown or "[application/octet-stream, 4 bytes]"
    assert program("show").out.endswith(f"\n1 assistant\n{shown}\n")


# --- what is saved ---


def test_saved_attachments_have_the_same_bytes(
    on_each: Program, chat_server: ChatServer, file: File, tmp_path: Path
) -> None:
    chat_server.script(
        Reply(message={"role": "assistant", "content": None, "audio": {"id": "a", "data": encode(WAV)}}), Reply("ok")
    )
    on_each("new", "--system", "Hear.")
    files = [file("a.png", PNG), file("../evil.tar.gz", BINARY), file("b.Doc_x", BINARY + b"x"), file("c.docx", BINARY)]
    given = [argument for path in files for argument in ("-a", path)]
    assert on_each("say", "What?", *given, "-a", "https://example.org/a.png", "--no-stream").code == 0
    on_each("say", "Nothing attached")
    folder = tmp_path / "new" / "folder"
    ran = on_each("show", "--save-attachments", str(folder))
    assert (ran.code, ran.err) == (0, "")
    written = {"2-1.png": PNG, "2-2.gz": BINARY, "2-3.bin": BINARY + b"x", "2-4.docx": BINARY, "3-1.wav": WAV}
    assert ran.out.splitlines() == [str(folder / name) for name in written]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == written
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = on_each("show", "--save-attachments", str(folder), "--json")
    assert again.json[0] == {
        "position": 2,
        "number": 1,
        "media_type": "image/png",
        "filename": None,
        "bytes": len(PNG),
        "path": str(folder / "2-1.png"),
    }
    assert [item["path"] for item in again.json] == ran.out.splitlines()
    assert on_each("show", "--last", "3", "--save-attachments", str(folder)).out == f"{folder / '3-1.wav'}\n"


@pytest.mark.parametrize("kind", ["other", "longer", "link", "dangling", "folder"])
def test_an_existing_file_with_other_content_is_never_overwritten(
    program: Program, file: File, tmp_path: Path, kind: str
) -> None:
    program("new")
    program("say", "What?", "-a", file("a.png", PNG))
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    there = folder / "1-1.png"
    if kind == "folder":
        there.mkdir()
    elif kind in ("link", "dangling"):
        there.symlink_to(elsewhere)
        if kind == "link":
            elsewhere.write_bytes(PNG)
    else:
        there.write_bytes(PNG + b"x" if kind == "longer" else b"mine")
    before = there.read_bytes() if there.is_file() else None
    program("show", "--save-attachments", str(folder)).failed(2, "1-1.png' exists already")
    assert (there.read_bytes() if there.is_file() else None) == before
    assert elsewhere.exists() is (kind == "link")


def test_a_folder_that_cannot_be_written_is_an_error(program: Program, file: File, tmp_path: Path) -> None:
    program("new")
    program("say", "What?", "-a", file("a.png", PNG))
    (tmp_path / "taken").touch()
    program("show", "--save-attachments", str(tmp_path / "taken")).failed(2, "taken' cannot be written: File exists")
    program("show", "--save-attachments", str(tmp_path / "taken" / "x")).failed(2, "cannot be written: Not a directory")


def test_without_attachments_no_folder_is_made(program: Program, tmp_path: Path) -> None:
    program("new")
    program("say", "Hi")
    ran = program("show", "--save-attachments", str(tmp_path / "folder"))
    assert (ran.code, ran.out, ran.err) == (0, "", "convstore: these messages have no attachments\n")
    assert program("show", "--save-attachments", str(tmp_path / "folder"), "--json").json == []
    assert not (tmp_path / "folder").exists()


def test_a_file_name_in_a_message_never_leads_out_of_the_folder(program: Program, tmp_path: Path) -> None:
    id = program("new").out.strip()
    names = ["../../x", "/etc/passwd", "a.b/../c", "a./..", "x.\n", "x.\0", "x." + "a" * 300, "", ".", "x.é"]
    with Store(os.environ["CONVSTORE_DB"]) as store:
        for name in names:
            data = f"data:x/../../y;base64,{encode(BINARY)}"
            store.append(id, [{"type": "file", "file": {"filename": name, "file_data": data}}])
    folder = tmp_path / "folder"
    assert program("show", "--save-attachments", str(folder)).code == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{n}-1.bin" for n in range(1, len(names) + 1))


# --- media types ---


@pytest.mark.parametrize(
    "data",
    [b"", b"RIFF", b"RIFF0000AVI ", b"ID3 tags are", b"\xff\xfe\x00x", b"\xff\xf1\x50\x80", b" %PDF-", b"GIF88a"],
)
def test_bytes_that_are_only_similar_to_a_media_type_have_none(data: bytes) -> None:
    assert guess_by_content(data) is None


def test_names_suggest_media_types_and_sizes_are_readable() -> None:
    assert [guess_by_name(name) for name in ("a.pdf", "a", "a.tar.gz", "a.unheard-of")] == [
        "application/pdf",
        *["application/octet-stream"] * 3,
    ]
    assert choose_extension(b"", kind="application/json") == "json"
    assert [format_size(count) for count in (1, 1023, 1024, 48 * 1024, 1024 * 1000, 10 * 1024**2)] == [
        *("1 byte", "1023 bytes", "1 KiB", "48 KiB", "1 MiB", "10 MiB"),
    ]
