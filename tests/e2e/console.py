"""People before a real service, which is a fixture (conftest.py): where it answers, and how they come in."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestd.cli.api import AdminApi
from attestd_console.sessions import Seed
from tests.browser import Authenticator
from tests.e2e.test_serving import Served


def origin(served: Served) -> str:
    return "https://localhost:" + served.url.rpartition(":")[2]


def link(served: Served, name: str, role: str) -> str:
    """A one-time link's path."""
    made = AdminApi.connect(served.folder).post("/invitations", {"v": 1, "name": name, "role": role})
    return f"/first/{made['token']}"


def come(page: Any, served: Served, name: str, role: str = "admin") -> Authenticator:
    """By the one-time link, with nothing but the keyboard."""
    authenticator = Authenticator.beside(page)
    page.goto(link(served, name, role))
    page.get_by_label("Name of this passkey").focus()
    page.keyboard.type("laptop")
    page.keyboard.press("Enter")
    page.wait_for_url("**/")
    return authenticator


def seed_of(served: Served) -> Seed:
    """A viewer's own key, as a browser would make it from its cookie."""
    seed = Seed.fresh()
    key = seed.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    name = f"viewer-{seed.text[:6].lower().replace('_', 'x').replace('-', 'x')}"
    AdminApi.connect(served.folder).post("/operators", {"name": name, "role": "viewer", "public_key": key})
    return seed
