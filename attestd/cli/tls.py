"""The service's own TLS key and certificate: files that workers read, made and renewed by the supervisor."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.ca.keyfiles import make_private_folder
from attestd.ca.signer import load_key
from attestd.cli.instance import Instance, replace_secret
from attestd.operations import Act


@dataclass(frozen=True, slots=True)
class ServiceTls:
    """`tls/` in the instance's folder. The key is made here, is no part of the authority, and can be thrown away."""

    instance: Instance

    @property
    def key_file(self) -> Path:
        return self.instance.settings.dir / "tls" / "server.key"

    @property
    def chain_file(self) -> Path:
        return self.instance.settings.dir / "tls" / "server.pem"

    def ensure(self, at: datetime) -> bool:
        """A certificate with a third of its life left and the names of today; True if a new one was made.

        Services that share the folder take turns, or one's key might end up beside another's certificate.
        """
        folder = self.key_file.parent
        make_private_folder(folder)
        turn = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if self._stands(at):
                return False
            self._make(at)
            return True
        finally:
            os.close(turn)

    def _stands(self, at: datetime) -> bool:
        if not (self.key_file.exists() and self.chain_file.exists()):
            return False
        chain = self.chain_file.read_text("ascii")
        held = x509.load_pem_x509_certificates(chain.encode("ascii"))[0]
        life = held.not_valid_after_utc - held.not_valid_before_utc
        # A power cut between the two files leaves a pair that does not match: made anew, like one that is old.
        belongs = load_key(self.key_file).public_key() == held.public_key()
        # The issuer, and what leads from it to each root, are those of today: a retired issuer is soon forgotten.
        hierarchy = self.instance.hierarchy
        above = chain.endswith(hierarchy.chain_above(hierarchy.issuer.key_identifier))
        names = self.instance.settings.server.all_names
        return belongs and above and held.not_valid_after_utc - at > life / 3 and names <= _names_in(held)

    def _make(self, at: datetime) -> None:
        """The certificate is in the registry and the audit trail before it is used, as every other."""
        key = ec.generate_private_key(ec.SECP256R1())
        act = Act(actor="attestd", now=at, request_id="tls")
        names = self.instance.settings.server.all_names
        chain = self.instance.service.certifying.certify_service(key.public_key(), names, act)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        for path, data in ((self.key_file, pem), (self.chain_file, chain.encode("ascii"))):
            replace_secret(path, data)


def _names_in(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
