"""Children to crash and to contend with, on this host and on another."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from convstore import liveness
from tests.faults.processes import Zygote, running_zygote


@pytest.fixture(scope="session")
def _zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with running_zygote(tmp_path_factory.mktemp("host")) as zygote:
        yield zygote


@pytest.fixture
def zygote(_zygote: Zygote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zygote]:
    """Starts children. The test and its children are on a host of their own, where no other test's lock files are."""
    host = tmp_path / "host"
    host.mkdir()
    _zygote.tmpdir = host
    monkeypatch.setattr(tempfile, "tempdir", str(host))
    monkeypatch.setattr(liveness, "_name", None)
    monkeypatch.setattr(liveness, "_descriptor", None)
    try:
        yield _zygote
    finally:
        _zygote.discard()
        if liveness._descriptor is not None:
            with suppress(OSError):
                os.close(liveness._descriptor)


@pytest.fixture
def other_host(tmp_path: Path) -> Path:
    """A host whose lock files cannot be seen from this one."""
    host = tmp_path / "other-host"
    host.mkdir()
    return host
