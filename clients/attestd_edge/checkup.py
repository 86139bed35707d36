"""`attestd-edge check`: what is configured, what is on disk, and what is wrong with either.

Each finding stands by itself, so that one fault does not hide the next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec

from attestd.errors import AttestdError, Misconfigured
from attestd_edge.edge import Edge, broker_feed
from attestd_edge.files import read_file
from attestd_edge.identity import MAX_PEM, ProxyIdentity, read_certificates
from attestd_edge.nats.settings import KEY_NAMES, NatsSettings
from attestd_edge.roots import PinnedRoots
from attestd_edge.service import Service
from attestd_edge.settings import Settings, TlsListen, UnixListen

_CLOCK_TOLERANCE = timedelta(seconds=60)


class Unwell(Misconfigured):
    """Something about this edge is not as it should be"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, whether it is well, what was found and what to do about it."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def examine(settings: Settings, *, now: datetime, online: bool) -> Iterator[Finding]:
    """Looks at everything, in the order in which things depend on each other. `online` asks the service, too."""
    roots: list[bytes] = []
    who: list[ProxyIdentity] = []
    edges: list[Edge] = []

    def root() -> str:
        configured = read_certificates(read_file(settings.root, limit=MAX_PEM), where=str(settings.root))
        roots.extend(PinnedRoots(settings.state_dir, configured).current)
        followed = "" if set(roots) == set(configured) else f"; {len(roots)} by following it"
        return f"{len(configured)} pinned in {settings.root}{followed}"

    def key() -> str:
        who.append(ProxyIdentity.load(settings.key, settings.certificate))
        if (mode := stat.S_IMODE(settings.key.stat().st_mode)) & 0o077:
            raise Unwell(f"{settings.key} can be read by others (mode {mode:04o}).", remedy="chmod 600")
        return f"key {who[0].kid}"

    def certificate() -> str:
        if not os.access(settings.certificate.parent, os.W_OK):
            raise Unwell(
                f"{settings.certificate.parent} can't be written to, so the certificate can't be renewed.",
                remedy="Keep the certificate in a folder that the edge's user may write to.",
            )
        verified = who[0].verify(roots=roots, trust_domain=settings.trust_domain, now=now)
        return f"{verified.spiffe_id}, until {_shown(verified.not_after)}, renewed from {_shown(who[0].half_life)} on"

    def state() -> str:
        if not os.access(settings.state_dir, os.R_OK | os.W_OK | os.X_OK):
            raise Unwell(f"{settings.state_dir} is not a folder that this user may write to.")
        edges.append(Edge.open(settings))
        floor = edges[0].store.floor
        return f"{settings.state_dir}, nothing below bundle {floor.epoch}.{floor.version} is accepted"

    def clock() -> str:
        if (ahead := edges[0].store.clock.ahead()) > _CLOCK_TOLERANCE:
            raise Unwell(
                f"The system's clock is {int(ahead.total_seconds())} s behind a time that has passed here.",
                remedy="Set the clock. If it was ahead before and is right now, remove floor.json from the state "
                "folder; the next bundle sets it anew.",
            )
        return "not behind the time's floor"

    def bundle() -> str:
        ready, why = edges[0].readiness()
        if not ready:
            raise Unwell(why, remedy="Let the edge reach the service; `--online` tries it.")
        view = edges[0].store.view()
        return (
            f"{view.bundle.epoch}.{view.bundle.version}, policy {view.bundle.policy_version}, "
            f"good until {_shown(view.bundle.age_limit)}"
        )

    def service() -> str:
        with Service(settings.server, roots=roots) as asked:
            fetched = asked.bundle(who[0], known=None)
        return f"{settings.server} answers with a bundle of {len(fetched.content) if fetched else 0} octets"

    def boundaries() -> str:
        return ", ".join(settings.boundaries) or "none: only the middleware can be used, with boundaries of its own"

    def listener() -> str:
        return _place(settings.listen) if settings.listen is not None else "none: only the middleware can be used"

    def envoy() -> str:
        if find_spec("grpc") is None or find_spec("envoy") is None:
            raise Unwell("What Envoy's gRPC service takes is not installed.", remedy="Install the extra `envoy`.")
        return _place(settings.envoy) if settings.envoy is not None else "none"

    steps: list[tuple[str, Callable[[], str], tuple[list[bytes] | list[ProxyIdentity] | list[Edge], ...]]] = [
        ("root", root, ()),
        ("key", key, ()),
        ("certificate", certificate, (roots, who)),
        ("state", state, (roots,)),
        ("clock", clock, (edges,)),
        ("bundle", bundle, (edges,)),
        ("boundaries", boundaries, ()),
        ("staleness", lambda: _staleness(settings, edges[0]), (edges,)),
        ("listener", listener, ()),
        *([("push", lambda: _push(settings), ())] if settings.push is not None else []),
        *([("envoy", envoy, ())] if settings.envoy is not None else []),
        *([("nats", lambda: _nats(settings), ())] if settings.nats is not None else []),
    ]
    if online:
        steps.append(("service", service, (roots, who)))
    for name, step, needed in steps:
        if not all(needed):
            yield Finding(name, False, "not looked at: something above is missing")
            continue
        try:
            yield Finding(name, True, step())
        except AttestdError as error:
            yield Finding(name, False, str(error), error.what_to_do)
        except OSError as error:
            yield Finding(name, False, str(error))


def _staleness(settings: Settings, edge: Edge) -> str:
    """For each boundary its own rule, if it has one, and what crosses now."""
    found = edge.standings()
    said = []
    for name, each in found.items():
        rule, says = settings.boundaries[name].staleness, ""
        if rule is not None:
            then = "nothing" if rule.allows is None else f"only when_stale({rule.allows})"
            says = f"after {rule.after} s without news {then}; now "
        said.append(f"{name}: {says}{each}")
    if any(each.crosses != "all" for each in found.values()):
        raise Unwell(". ".join(said), remedy="Let the edge reach the service; `--online` tries it.")
    return ". ".join(said) or "no boundaries"


def _place(where: UnixListen | TlsListen) -> str:
    if isinstance(where, UnixListen):
        return f"unix:{where.path}, mode {where.mode:04o}"
    for file in (where.certificate, where.key, where.hop_ca):
        read_file(file, limit=MAX_PEM)
    return f"TLS on {where.host}:{where.port}, for certificates of {where.hop_ca}"


def _nats(settings: Settings) -> str:
    found = NatsSettings.of(settings)
    for name in KEY_NAMES:
        read_file(found.keys / f"{name}.seed", limit=MAX_PEM)
    if found.ca is not None:
        read_certificates(read_file(found.ca, limit=MAX_PEM), where=str(found.ca))
    subjects = sum(len(grant.publish) + len(grant.subscribe) for grant in found.grants)
    carried = f"; carries over {found.carriage.guarded.boundary.name}" if found.carriage is not None else ""
    return f"{found.server}, {subjects} subjects to be granted{carried}"


def _push(settings: Settings) -> str:
    broker_feed(settings)
    return f"bundles also come from {(settings.push or {}).get('nats')}"


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
