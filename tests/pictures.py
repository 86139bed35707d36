"""Pictures of the console for its documentation: `python -m tests.pictures [PAGE …]`.

Over a made-up service in this process, whose clock stands still, so that a picture changes only when the page does.
Each page has a line in `PICTURES`: its name, its address, and what was done before.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attestd.config import ConsoleSettings
from tests.browser import chromium, served
from tests.console import console_app, signed_in
from tests.service import World

FOLDER: Final = Path(__file__).parents[1] / "docs" / "console"
LOOKS: Final = (("light", "light", False), ("dark", "dark", False), ("phone", "light", True))


def _nothing(world: World) -> None:
    """An instance without a device."""


def _fleet(world: World) -> str:
    """A small fleet in every state: answers with the id of a device that is quarantined."""
    devices = [world.enrolled() for _ in range(6)]
    for _ in range(4):
        world.device().enroll()
    ids = [str(world.row(device).id) for device in devices]
    act = {"v": 1, "reason": "stolen from the van"}
    world.operator.post(f"/v1/admin/devices/{ids[0]}/quarantine", act)
    world.operator.post(f"/v1/admin/devices/{ids[1]}/retire", {"v": 1, "reason": "scrapped"})
    manifest = {"name": "bike-4", "stage": "monitor", "match": {"tier": "device"}, "boot": {"secure_boot": True}}
    world.admin.post("/v1/admin/references?unwatched=true", json.dumps(manifest).encode())
    devices[2].attest()
    return ids[0]


@dataclass(frozen=True)
class Picture:
    """`path` may name what `prepare` made: it is formatted with its answer."""

    name: str
    path: str
    prepare: Callable[[World], object] = _nothing
    stranger: bool = False


PICTURES: Final = (
    Picture("first-run", "/"),
    Picture("sign-in", "/sign-in", stranger=True),
    Picture("help", "/help"),
    Picture("overview", "/", _fleet),
    Picture("fleet", "/fleet", _fleet),
    Picture("device", "/fleet/{}", _fleet),
    Picture("release", "/fleet/{}/release", _fleet),
    Picture("approvals", "/approvals", _fleet),
    Picture("boundaries", "/boundaries", _fleet),
    Picture("policies", "/policies/fleet", _fleet),
    Picture("policy-draft", "/policies/fleet/draft", _fleet),
    Picture("reference", "/reference", _fleet),
    Picture("reference-values", "/reference/bike-4", _fleet),
    Picture("authority", "/authority", _fleet),
    Picture("audit", "/audit", _fleet),
    Picture("people", "/people", _fleet),
    Picture("sessions", "/sessions", _fleet),
)


def take(picture: Picture) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "instance")
        try:
            app = console_app(world)
            seed = None if picture.stranger else signed_in(world, "admin", "ada", app=app).seed
            path = picture.path.format(picture.prepare(world))
            with served(app.wsgi_app) as here, chromium(here.root) as browser:
                world.configure(console=ConsoleSettings(origin=here.origin))
                for look, theme, phone in LOOKS:
                    page = browser.page(here.origin, seed=seed, theme=theme, phone=phone)
                    page.route("**/*.js", lambda route: route.abort())  # a still: nothing that counts seconds
                    page.goto(path)
                    page.screenshot(path=FOLDER / f"{picture.name}-{look}.png", full_page=True)
                    browser.close_pages()
        finally:
            world.close()


def main(wanted: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        if not wanted or picture.name in wanted:
            take(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
