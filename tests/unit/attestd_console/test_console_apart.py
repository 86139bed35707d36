"""`attestd-console serve`: what it takes, and what it says when it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestd_console import apart
from attestd_console.cli import ROOT, SERVER, ListenUnusable, RootUnusable, ServerUnusable
from tests.service import World


@pytest.fixture
def root(world: World, tmp_path: Path) -> Path:
    file = tmp_path / "root.pem"
    file.write_bytes(world.get("/v1/root").data)
    return file


@pytest.mark.parametrize("server", ["https://a.example", "https://a.example:8443", "https://a.example:8443/"])
def test_a_services_address_is_an_origin(server: str, root: Path) -> None:
    service = apart.service_of(server, root)
    assert service.base == server.rstrip("/")
    assert not service.mounted


@pytest.mark.parametrize(
    "server", ["http://a.example", "a.example", "https://", "https://a.example/x", "https://a?b", ""]
)
def test_anything_else_is_none(server: str, root: Path) -> None:
    with pytest.raises(ServerUnusable):
        apart.service_of(server, root)


def test_a_root_that_is_none_is_named(tmp_path: Path) -> None:
    for content in (b"", b"nothing"):
        (tmp_path / "root.pem").write_bytes(content)
        with pytest.raises(RootUnusable, match=r"root\.pem"):
            apart.service_of("https://a.example", tmp_path / "root.pem")
    with pytest.raises(RootUnusable):
        apart.service_of("https://a.example", tmp_path / "absent.pem")


@pytest.mark.parametrize(
    ("listen", "cert", "key"),
    [
        ("8444", None, None),
        ("a:b", None, None),
        (":8444", None, None),
        ("127.0.0.1:0", "c", None),
        ("0.0.0.0:0", None, None),
    ],
)
def test_it_listens_in_the_open_only_with_a_certificate(
    listen: str, cert: str | None, key: str | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVER, "https://a.example")
    monkeypatch.setenv(ROOT, str(root))
    with pytest.raises(ListenUnusable):
        apart.run(listen, None if cert is None else Path(cert), None if key is None else Path(key))
