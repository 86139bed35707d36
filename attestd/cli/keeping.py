"""How a new instance keeps its keys and reaches its database, by the options of `attestd init`."""

from __future__ import annotations

import getpass
import hmac
import os
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import typer

from attestd.ca.manifest import TokenPlace
from attestd.ca.unlocking import require_strong
from attestd.cli.instance import KeyChoice
from attestd.errors import Misconfigured

_FOR_THE_SERVICE = "$CREDENTIALS_DIRECTORY/attestd-passphrase"


class PassphrasesDiffer(Misconfigured):
    """The two passphrases are not the same"""

    remedy = "Type it twice, or name a file with --passphrase-file."


class NobodyToAsk(Misconfigured):
    """There is no terminal to ask for a passphrase"""

    remedy = "Name a file that holds it with --passphrase-file."


class PasswordVisible(Misconfigured):
    """A password in a command line is seen by everybody on this machine"""

    remedy = "Leave it out and name a file in PGPASSFILE, or put the whole URL into ATTESTD_DATABASE_URL."


def without_password(url: str) -> str:
    """A database's URL that holds no password. Raises PasswordVisible, which doesn't repeat it."""
    try:
        parts = urlsplit(url)
        if parts.password is None and "password" not in dict(parse_qsl(parts.query)):
            return url
    except ValueError:
        return url  # who opens it says what is wrong
    raise PasswordVisible


def choose_keys(
    encrypt: bool, passphrase_file: Path | None, module: Path | None, token: str, pin_file: Path | None
) -> KeyChoice:
    """Raises PassphrasesDiffer, NobodyToAsk, PassphraseTooShort; typer.BadParameter for options that contradict."""
    if passphrase_file is not None and not encrypt:
        raise typer.BadParameter("--passphrase-file belongs to --encrypt-keys.")
    if len({module is None, token == "", pin_file is None}) != 1:
        raise typer.BadParameter("--pkcs11-module, --token-label and --pin-file belong together.")
    place = None if module is None else TokenPlace(str(module.absolute()), token)
    pin = "" if pin_file is None else str(pin_file.absolute())
    if not encrypt:
        return KeyChoice(pin_file=pin, place=place)
    if passphrase_file is not None:
        return KeyChoice(str(passphrase_file.absolute()), pin, place=place)
    return KeyChoice(_FOR_THE_SERVICE, pin, _asked_twice(), place)


def _asked_twice() -> bytes:
    """A passphrase from the terminal. The service will have it as a credential of its service manager."""
    if not os.isatty(0):
        raise NobodyToAsk
    first = require_strong(getpass.getpass("Passphrase for the keys: ").encode())
    if not hmac.compare_digest(first, getpass.getpass("Once more: ").encode()):
        raise PassphrasesDiffer
    return first
