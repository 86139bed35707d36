"""Backups and restores of whole services for tests, with their frozen clock.

back_up(world, file)                                  # while `world` goes on
after = restored(world, file, tmp_path / "new", bundle=newest_bundle(world))
device.world = after                                  # the same address now leads to the restored service
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attestd.backups.making import Made, make_backup
from attestd.backups.reading import Manifest, open_backup
from attestd.backups.restoring import Restored, restore
from attestd.ca.hierarchy import Hierarchy
from attestd.ca.unlocking import NOTHING
from attestd.cli.backup import renew_proxies
from attestd.config import Settings
from attestd.registry.engine import Registry
from attestd.web.app import create_app
from tests.service import TRUST_DOMAIN, URL, Caller, World, wire

__all__ = ["RestoredWorld", "back_up", "newest_bundle", "restored"]


def back_up(world: World, file: Path, **options: Any) -> Made:
    """A backup of a service that goes on running."""
    settings = world.settings.dir / "attestd.toml"
    if not settings.exists():
        server = f'[server]\npublic_url = "{URL}"\n'
        settings.write_text(
            f'trust_domain = "{TRUST_DOMAIN}"\n{server}[database]\nurl = "{world.settings.database.url}"\n'
        )
    return make_backup(
        file, world.settings, world.registry, now=world.clock(), version="test", entropy=os.urandom, **options
    )


def newest_bundle(world: World) -> str:
    """What an edge has on its disk that asked just now."""
    return world.service.publication.bundle(world.clock()).content


def restored(
    before: World,
    file: Path,
    folder: Path,
    *,
    bundle: str | None = None,
    database: str | None = None,
    passphrase: bytes | None = None,
    **options: Any,
) -> RestoredWorld:
    """The service that comes out of a backup. It takes over the clock and the address."""

    def finish(draft: Path, environ: Mapping[str, str], manifest: Manifest) -> None:
        settings = Settings.load(draft, environ)
        registry = Registry.open(settings.database_url)
        service = wire(settings, Hierarchy.load(draft), registry, before.clock)
        renew_proxies(service.certifying, made_at=manifest.made_at, at=before.clock())
        registry.close()

    with open_backup(file, passphrase=passphrase) as backup:
        done = restore(
            backup,
            folder,
            database=database or "sqlite:///registry.db",
            bundle=bundle,
            now=before.clock(),
            entropy=os.urandom,
            environ={},
            keep_operator="admin",
            unlock=lambda _: NOTHING,
            **{"keys": None, "finish": finish, **options},
        )
    return RestoredWorld(folder, before, done)


class RestoredWorld(World):
    """A service restored into a folder. Operators of before are disabled; this one's have names of their own."""

    def __init__(self, folder: Path, before: World, done: Restored) -> None:
        self.done = done
        self.clock = before.clock
        self.maker = before.maker
        self.settings = Settings.load(folder, {})
        self.hierarchy = Hierarchy.load(folder)
        self.registry = Registry.open(self.settings.database_url)
        self.service = wire(self.settings, self.hierarchy, self.registry, self.clock)
        self.app = create_app(self.service)
        self._callers = {}

    def close(self) -> None:
        self.registry.close()

    def new_caller(self, role: str, name: str | None = None) -> Caller:
        return super().new_caller(role, name or f"{role}-after")
