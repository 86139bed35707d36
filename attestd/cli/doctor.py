"""`attestd doctor`: what is wrong with this instance, and how to mend it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import typer
from cryptography import x509

from attestd.ca.authorities import AuthorityExpiring
from attestd.ca.hierarchy import Hierarchy, examine
from attestd.ca.keystore import key_path
from attestd.ca.manifest import read_manifest
from attestd.ca.unlocking import Unlocking
from attestd.cli.answering import running_url
from attestd.cli.instance import now, profiles_of, unlocking_of
from attestd.cli.keydesk import asker
from attestd.cli.output import FAILED, emit
from attestd.config import Settings
from attestd.errors import AttestdError, Misconfigured
from attestd.policy import PolicySet
from attestd.registry import counts, operators, policies, trust
from attestd.registry.engine import Registry

_SOON = timedelta(days=14)
_FEW = 10


class FolderExposed(Misconfigured):
    """Others can enter the instance's folder"""

    remedy = "chmod 700 the folder: the registry in it names every device."


class TrustDomainsDiffer(Misconfigured):
    """The settings and the authority name different trust domains"""

    remedy = "Set trust_domain in attestd.toml back; a trust domain can't be renamed."


class AdminExpiring(Misconfigured):
    """An operator's credential ends soon, or has ended"""

    remedy = "attestd admin renew"


class NoMakers(Misconfigured):
    """No TPM maker is trusted"""

    remedy = "attestd trust add FILE with a maker's root; until then only devices of the inventory can enroll."


class RootKeyOnline(Misconfigured):
    """The root's private key lies on this machine"""

    remedy = "Move keys/root.pem to a place that is offline; it is needed again only to replace what it signed."


class NotRunning(Misconfigured):
    """The service is not running"""

    remedy = "attestd serve"


# Worth knowing, but nothing is broken.
_WARNINGS = (AuthorityExpiring, NoMakers, RootKeyOnline, NotRunning, AdminExpiring)


def report_on(dir: Path, *, recount: bool = False, as_json: bool) -> None:
    """Prints every problem; exits with 1 if something is broken, and not just worth knowing."""
    found = list(examinations(dir, now(), recount=recount))
    broken = [error for error in found if not isinstance(error, _WARNINGS)]
    document = [
        {
            "problem": error.slug(),
            "level": "warning" if isinstance(error, _WARNINGS) else "error",
            "detail": error.detail,
            "seen": error.seen,
            "expected": error.expected,
            "remedy": error.what_to_do,
        }
        for error in found
    ]
    lines = [
        f"{entry['level']:<8} {entry['detail']}"
        + "".join(f"\n         {name}: {entry[name]}" for name in ("seen", "expected", "remedy") if entry[name])
        for entry in document
    ]
    summary = f"{len(broken)} problems, {len(found) - len(broken)} warnings." if found else "Everything is well."
    emit(document, as_json=as_json, text="\n".join([*lines, summary]))
    if broken:
        raise typer.Exit(FAILED)


def examinations(dir: Path, at: datetime, *, recount: bool = False) -> Iterator[AttestdError]:
    """Every problem that can be seen from the instance's folder; each examination goes on after another's failure.

    `recount` puts right what is kept of the fleet's counts, where it differs."""
    try:
        settings = Settings.load(dir, os.environ)
    except AttestdError as error:
        yield error
        return
    if dir.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield FolderExposed(f"Others can enter {dir}.", seen=oct(dir.stat().st_mode & 0o777), expected="0o700")
    yield from _failing(lambda: profiles_of(settings))
    unlocking = unlocking_of(settings, os.environ, ask=asker())
    yield from _secrets(unlocking)
    yield from examine(dir, at, unlocking)
    yield from _hierarchy(dir, settings, unlocking)
    try:
        yield from _database(settings, at, recount)
    except AttestdError as error:
        yield error
    if running_url(dir) is None:
        yield NotRunning("The service is not running, or does not answer.")


def _failing(examine_it: Callable[[], object]) -> Iterator[AttestdError]:
    try:
        examine_it()
    except AttestdError as error:
        yield error


def _secrets(unlocking: Unlocking) -> Iterator[AttestdError]:
    """The files that open the keys: readable, and by their owner alone."""
    for file in (unlocking.passphrase_file, unlocking.pin_file):
        if file is not None:
            yield from _failing(partial(unlocking.read, file))


def _hierarchy(dir: Path, settings: Settings, unlocking: Unlocking) -> Iterator[AttestdError]:
    try:
        for root in read_manifest(dir).entries["roots"]:
            if (path := key_path(dir, root.name)).exists():
                yield RootKeyOnline(
                    "The root's private key lies beside the service.",
                    seen=path,
                    remedy=f"Move {path.relative_to(dir)} to a place that is offline; it is needed again only to "
                    "replace what it signed.",
                )
        hierarchy = Hierarchy.load(dir, unlocking)
    except AttestdError:
        return  # `examine` has told
    if hierarchy.trust_domain != settings.trust_domain:
        yield TrustDomainsDiffer(seen=settings.trust_domain, expected=hierarchy.trust_domain)


def _database(settings: Settings, at: datetime, recount: bool) -> Iterator[AttestdError]:
    registry = Registry.open(settings.database_url)
    try:
        with registry.reading() as c:
            stored = policies.latest(c)
            makers = trust.every(c)
            registered = operators.every(c)
            differing = counts.differences(c)
        if recount:
            with registry.acting() as c:
                counts.mend(c, differing)
            differing = {}
    finally:
        registry.close()
    yield from _failing(lambda: PolicySet.parse(stored.text, stored.version))
    for group, (kept, counted) in islice(differing.items(), _FEW):
        named = " ".join(value or "-" for value in group)
        yield counts.CountsDiffer(f"Of {named} devices a wrong count is kept.", seen=kept, expected=counted)
    if not makers:
        yield NoMakers("No TPM maker is trusted here.")
    for operator in registered:
        if operator.disabled_at is not None or operator.key is None:
            continue
        ends = x509.load_der_x509_certificate(operator.key.certificate).not_valid_after_utc
        if ends - at < _SOON:
            yield AdminExpiring(f"The credential of operator {operator.name} ends.", seen=f"{ends:%Y-%m-%d %H:%M:%SZ}")
