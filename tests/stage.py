"""The console's pages on show: the made-up fleet and an empty instance behind HTTPS, and one browser for all.

with Stage(folder) as stage:
    page = stage.show(sight, theme="dark", phone=True)     # opened, with what the sight says done in it
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attestd.config import ConsoleSettings
from tests.browser import chromium, served
from tests.console import console_app, signed_in
from tests.made_up import NOW, MadeUp
from tests.service import World
from tests.sights import ALIVE, Sight, hear

PATIENCE = 60_000  # milliseconds: the machine may be slow


class Stage:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = ExitStack()
        self._contexts: dict[tuple[str | bool, ...], Any] = {}

    def __enter__(self) -> Self:
        with self._open as stack:
            self.fleet = MadeUp(self.folder / "fleet")
            stack.callback(self.fleet.close)
            empty = World(self.folder / "empty")
            stack.callback(empty.close)
            empty.clock.now = NOW
            app = console_app(empty)
            seed = signed_in(empty, "admin", "ada", app=app).seed
            here = stack.enter_context(served(self.fleet.app.wsgi_app))
            there = stack.enter_context(served(app.wsgi_app))
            self.fleet.world.configure(console=ConsoleSettings(origin=here.origin))
            empty.configure(console=ConsoleSettings(origin=there.origin))
            self.browser = stack.enter_context(chromium(here.root, there.root))
            self._where = {
                "fleet": (here.origin, self.fleet.seed),
                "empty": (there.origin, seed),
                "stranger": (here.origin, None),
            }
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def show(self, sight: Sight, *, theme: str = "light", phone: bool = False, **more: Any) -> Any:
        """The page; close it. Its clock stands where the service's does, and its stream is alive. Pages that look alike
        share what a browser keeps, such as the style sheet."""
        look = (sight.scene, theme, phone, *more)
        if look in self._contexts:
            page = self._contexts[look].new_page()
        else:
            origin, seed = self._where[sight.scene]
            page = self.browser.page(origin, seed=seed, theme=theme, phone=phone, **more)
            self._contexts[look] = page.context
        page.set_default_timeout(PATIENCE)
        page.clock.set_fixed_time(NOW)
        hear(page, ALIVE)
        page.goto(sight.at(self.fleet))
        sight.done(page, self.fleet)
        return page
