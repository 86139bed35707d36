"""`attestd serve`: the supervisor of the worker processes, and of the service's own TLS certificate."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from granian import Granian
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from attestd.ca.certificates import CertificateSpec, issue, nested_validity
from attestd.ca.signer import load_key
from attestd.cli.api import trusting
from attestd.cli.instance import Instance, describe, now, open_instance, replace_secret
from attestd.cli.output import emit, report
from attestd.cli.worker import DIR_VARIABLE
from attestd.errors import Unavailable
from attestd.ids import Serial, SpiffeId
from attestd.issuance.grants import pem_chain
from attestd.registry import issued, spends

_HEADER_TIMEOUT = 10_000  # milliseconds
_SWEEP_EVERY = timedelta(minutes=1)
_KEEP_CERTIFICATES = timedelta(days=30)  # after their end


class AddressTaken(Unavailable):
    """The service can't listen there"""

    remedy = "Stop what listens there, or set server.listen in attestd.toml (or --listen)."


def run_service(dir: Path, listen: str | None, *, as_json: bool) -> None:
    """Serves until a signal ends it. Raises Misconfigured's children and AddressTaken."""
    if listen is not None:
        os.environ["ATTESTD_SERVER_LISTEN"] = _with_port(listen)
    os.environ[DIR_VARIABLE] = str(dir.resolve())
    instance = open_instance(dir, os.environ)
    _require_free(instance)
    _Supervisor(instance, lambda: _announce(instance, as_json)).run()


def _with_port(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    if port != "0":
        return listen
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def _require_free(instance: Instance) -> None:
    server = instance.settings.server
    try:
        with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((server.host, server.port))
    except OSError as error:
        raise AddressTaken(f"{server.listen} is not free.", seen=error.strerror) from None


def _announce(instance: Instance, as_json: bool) -> None:
    said = describe(instance) | {"pid": os.getpid()}
    emit(said, as_json=as_json, text=f"attestd answers at {said['url']} (trust domain {said['trust_domain']})")


class _Supervisor:
    """Workers, their TLS certificate, and the note that tells other commands where the service is."""

    def __init__(self, instance: Instance, announce: Callable[[], None]) -> None:
        self._instance = instance
        self._announce = announce
        self._ended = threading.Event()
        self._tls = instance.settings.dir / "tls"
        self._run = instance.settings.dir / "run"

    def run(self) -> None:
        server = self._instance.settings.server
        self._ensure_certificate(now())
        self._run.mkdir(mode=0o700, exist_ok=True)
        metrics = Path(tempfile.mkdtemp(prefix="metrics-", dir=self._run))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        # Fresh processes, not forks: this one has threads, and a lock that one of them holds at the fork stays locked.
        multiprocessing.set_start_method("spawn", force=True)
        granian = Granian(
            "attestd.cli.worker:create_front",
            factory=True,
            address=server.host,
            port=server.port,
            interface=Interfaces.ASGI,
            workers=server.workers,
            http1_settings=HTTP1Settings(header_read_timeout=_HEADER_TIMEOUT),
            websockets=False,
            ssl_cert=self._tls / "server.pem",
            ssl_key=self._tls / "server.key",
            log_level=LogLevels.warning,
            respawn_failed_workers=True,
            workers_kill_timeout=int(server.request_timeout.total_seconds()) + 5,
            process_name=None,
        )
        granian.on_startup(self._started)
        granian.on_shutdown(self._ended.set)
        try:
            granian.serve()
        finally:
            self._ended.set()
            (self._run / "service.json").unlink(missing_ok=True)
            shutil.rmtree(metrics, ignore_errors=True)

    def _started(self) -> None:
        threading.Thread(target=self._say_when_answering, daemon=True).start()
        threading.Thread(target=self._look_after, daemon=True).start()

    def _say_when_answering(self) -> None:
        url = self._instance.settings.server.local_url
        context = trusting(self._instance.settings.dir)
        while not self._ended.wait(0.05):
            try:
                httpx.get(f"{url}/healthz", verify=context, timeout=5.0).raise_for_status()
            except httpx.HTTPError:
                continue
            note = self._run / "service.json"
            draft = note.with_suffix(f".{secrets.token_hex(4)}")
            draft.write_text(json.dumps({"local_url": url, "pid": os.getpid()}), "utf-8")
            draft.rename(note)
            self._announce()
            return

    def _look_after(self) -> None:
        """Every minute: forgets what expired, and renews the TLS certificate ahead of time (workers then restart)."""
        while not self._ended.wait(_SWEEP_EVERY.total_seconds()):
            self._forget(now())
            if self._ensure_certificate(now()):
                os.kill(os.getpid(), signal.SIGHUP)

    def _forget(self, at: datetime) -> None:
        """What no request can ask for any more: spent ids past their time, certificates long expired."""
        try:
            with self._instance.registry.acting() as c:
                spends.purge(c, before=int(at.timestamp()))
                issued.purge(c, before=int((at - _KEEP_CERTIFICATES).timestamp()))
        except Unavailable as error:
            report(error)  # the next minute tries again

    def _ensure_certificate(self, at: datetime) -> bool:
        """A TLS certificate with a third of its life left and the names of today; True if a new one was made."""
        key_file, chain_file = self._tls / "server.key", self._tls / "server.pem"
        settings = self._instance.settings
        names = settings.server.all_names
        if key_file.exists() and chain_file.exists():
            held = x509.load_pem_x509_certificates(chain_file.read_bytes())[0]
            life = held.not_valid_after_utc - held.not_valid_before_utc
            # A power cut between the two files leaves a pair that does not match: made anew, like one that is old.
            belongs = load_key(key_file).public_key() == held.public_key()
            if belongs and held.not_valid_after_utc - at > life / 3 and names <= _names_in(held):
                return False
        key = ec.generate_private_key(ec.SECP256R1())
        hierarchy = self._instance.hierarchy
        profile = self._instance.profiles["server"]
        not_before, not_after = nested_validity(profile, issuer=hierarchy.issuer.certificate, now=at)
        addresses = [ip_address(name) for name in sorted(names) if _is_address(name)]
        certificate = issue(
            CertificateSpec(
                public_key=key.public_key(),
                spiffe_id=SpiffeId.of_service(settings.trust_domain),
                profile=profile,
                serial=Serial.random(os.urandom(20)),
                not_before=not_before,
                not_after=not_after,
                dns_names=tuple(sorted(name for name in names if not _is_address(name))),
                ip_addresses=tuple(addresses),
            ),
            hierarchy.issuer,
        )
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._tls.mkdir(mode=0o700, exist_ok=True)
        for path, data in ((key_file, pem), (chain_file, pem_chain(certificate, hierarchy).encode("ascii"))):
            replace_secret(path, data)
        return True


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _names_in(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
