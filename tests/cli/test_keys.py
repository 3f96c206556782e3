"""Test `convstore keys`: a key is shown once, and is listed and revoked by its id."""

from __future__ import annotations

from convstore import Store
from tests.cli.program import Program


def test_a_key_is_printed_once_and_nothing_else(on_each: Program, database_url: str) -> None:
    made = on_each("keys", "create", "--owner", "ada", "--name", "laptop", "--expires", "90d")
    secret = made.out.strip()
    assert (made.out, made.err) == (f"{secret}\n", "")
    with Store(database_url) as store:
        key = store.check_key(secret).key
    assert key is not None
    assert (key.owner, key.name) == ("ada", "laptop")
    listed = on_each("keys", "list", "--owner", "ada")
    assert key.id in listed.out
    assert "never used" in listed.out
    assert secret not in listed.out + on_each("keys", "list", "--owner", "ada", "--json").out


def test_rights_and_the_prefix_need_each_other(program: Program) -> None:
    made = program("keys", "create", "--rights", "read, act-for", "--for", "team-", "--json").json
    assert (made["rights"], made["for"]) == (["read", "act-for"], "team-")
    assert program("keys", "create", "--rights", "act-for", "--for", "", "--json").json["for"] == ""
    program("keys", "create", "--rights", "act-for").failed(2, "--for")
    program("keys", "create", "--for", "x").failed(2, "act-for")
    program("keys", "create", "--rights", "root").failed(2, "rights are read, write, act-for, admin")
    program("keys", "create", "--rights", "").failed(2, "rights are")
    program("keys", "create", "--expires", "soon").failed(2, "length of time")


def test_keys_of_all_owners_are_listed_and_revoked_by_an_administrator(program: Program) -> None:
    ids = [program("keys", "create", "--owner", owner, "--json").json["id"] for owner in ("ada", "bob")]
    assert [key["id"] for key in program("keys", "list", "--all-owners", "--json").json] == ids
    program("keys", "list", "--all-owners", "--owner", "ada").failed(2, "other owners")
    assert program("keys", "list").out == ""
    program("keys", "revoke", ids[1], "--owner", "ada").failed(3, "keys list")
    revoked = program("keys", "revoke", ids[1])
    assert (revoked.code, revoked.out, revoked.err) == (0, "", f"convstore: key {ids[1]} is revoked\n")
    assert "revoked" in program("keys", "list", "--owner", "bob").out
    assert program("keys", "revoke", ids[1], "--json").json["revoked_at"] is not None
    program("keys", "revoke", "nothing").failed(3, "no key 'nothing'")


def test_a_terminal_gets_a_table_without_control_characters(program: Program) -> None:
    program("keys", "create", "--owner", "ada", "--name", "Ada's laptop", "--rights", "read,act-for", "--for", "")
    shown = program("keys", "list", "--all-owners", terminal=True)
    assert "LAST USE" in shown.out
    assert "Ada's laptop" in shown.out
    assert "all" in shown.out
