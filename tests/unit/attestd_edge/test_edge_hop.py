"""Whose word about certificates counts, and how it is read."""

from __future__ import annotations

import base64
import hashlib
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestd.protocol.encoding import b64encode
from attestd_edge import hop
from attestd_edge.hop import (
    AuthorizationMalformed,
    CertificateHeaderMalformed,
    CertificateSource,
    Door,
    HeaderDuplicated,
    Headers,
    HopUnauthenticated,
    MutualTlsHop,
    OnlyPeerHop,
    Peer,
    UnixSocketHop,
    from_pem,
    is_reserved,
)
from tests import authority as a

LEAF = a.leaf()
UNIX = Peer(unix=True)
TCP = Peer()


def pem_of(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()


def item(der: bytes) -> str:
    return f":{base64.b64encode(der).decode()}:"


def nginx(der: bytes = LEAF) -> tuple[str, str]:
    return "X-Client-Cert", quote(pem_of(der), safe="")


def presented(door: Door, *headers: tuple[str, str], peer: Peer = UNIX):
    return door.present(Headers.of(headers), peer)


NGINX = Door(CertificateSource.NGINX, UnixSocketHop())
RFC9440 = Door(CertificateSource.RFC9440, UnixSocketHop())


class TestWhoseWordCounts:
    @pytest.mark.parametrize(
        ("door", "header"), [(NGINX, nginx()), (RFC9440, ("Client-Cert", item(LEAF)))], ids=["nginx", "rfc9440"]
    )
    def test_the_hops_does_and_no_one_elses(self, door, header):
        assert presented(door, header).chain == (LEAF,)
        assert presented(door, header, peer=TCP).chain == ()

    def test_a_tls_peer_with_the_hops_certificate(self):
        hop = a.leaf(key=a.STRANGER_KEY)
        door = Door(CertificateSource.NGINX, MutualTlsHop([b64encode(hashlib.sha256(hop).digest())]))
        assert presented(door, nginx(), peer=Peer(chain=(hop,))).chain == (LEAF,)
        assert presented(door, nginx(), peer=Peer(chain=(LEAF,))).chain == ()
        assert presented(door, nginx(), peer=Peer(chain=(LEAF, hop))).chain == ()
        assert presented(door, nginx(), peer=UNIX).chain == ()

    def test_where_no_source_is_named(self):
        assert presented(Door(), nginx(), ("Client-Cert", item(LEAF))).chain == ()

    def test_where_the_tls_layer_is_the_source(self):
        door = Door(CertificateSource.TLS)
        assert presented(door, nginx(), peer=Peer(chain=(LEAF,))).chain == (LEAF,)
        assert presented(door, nginx(), ("Client-Cert", item(LEAF)), peer=UNIX).chain == ()

    @pytest.mark.parametrize("source", [CertificateSource.NGINX, CertificateSource.RFC9440])
    def test_a_header_without_a_hop_is_no_configuration(self, source):
        with pytest.raises(HopUnauthenticated):
            Door(source)
        Door(source, OnlyPeerHop())

    def test_a_duplicate_is_refused(self):
        assert presented(NGINX, nginx()).chain == (LEAF,)
        with pytest.raises(HeaderDuplicated):
            presented(NGINX, nginx(), nginx(a.leaf(key=a.STRANGER_KEY)))
        with pytest.raises(HeaderDuplicated):
            presented(NGINX, nginx(), ("x-CLIENT-cert", nginx()[1]))

    @pytest.mark.parametrize(
        ("door", "headers"),
        [
            (NGINX, [nginx(), ("Client-Cert", item(LEAF))]),
            (NGINX, [nginx(), ("Client-Cert-Chain", item(LEAF))]),
            (NGINX, [("Client-Cert", item(LEAF))]),
            (RFC9440, [("Client-Cert", item(LEAF)), nginx()]),
            (RFC9440, [nginx()]),
        ],
    )
    def test_a_certificate_that_comes_in_another_way_as_well_is_refused(self, door, headers):
        """The hop overwrites one header: the other can only be the client's own."""
        with pytest.raises(HeaderDuplicated):
            presented(door, *headers)

    def test_reserved_names(self):
        for name in (
            "Client-Cert",
            "client_cert",
            "X-CLIENT-CERT",
            "Client-Cert-Chain",
            "Attestd-Identity",
            "ATTESTD_X",
        ):
            assert is_reserved(name)
        for name in ("Client-Certificate", "X-Attestd", "Authorization"):
            assert not is_reserved(name)


class TestReading:
    def test_a_chain_of_rfc_9440(self):
        both = f"{item(a.ISSUER.der)}, {item(a.ROOT.der)}"
        found = presented(RFC9440, ("Client-Cert", item(LEAF)), ("Client-Cert-Chain", both))
        assert found.chain == (LEAF, a.ISSUER.der, a.ROOT.der)

    def test_no_certificate_at_all(self):
        assert presented(NGINX, ("X-Client-Cert", "")).chain == ()
        assert presented(NGINX).chain == ()
        assert presented(RFC9440).chain == ()

    def test_a_chain_without_its_leaf(self):
        with pytest.raises(CertificateHeaderMalformed):
            presented(RFC9440, ("Client-Cert-Chain", item(a.ISSUER.der)))

    @pytest.mark.parametrize(
        "value",
        [
            base64.b64encode(LEAF).decode(),
            item(LEAF)[:-1],
            item(LEAF) + ";x=1",
            f"{item(LEAF)}, {item(LEAF)}",
            ":not base64!:",
            ":YWJ:",
            pem_of(LEAF).replace("\n", ""),
        ],
    )
    def test_what_is_no_byte_sequence(self, value):
        with pytest.raises(CertificateHeaderMalformed):
            presented(RFC9440, ("Client-Cert", value))

    @pytest.mark.parametrize(
        "value",
        [
            "x",
            quote(pem_of(LEAF) + pem_of(LEAF)),
            quote(pem_of(LEAF)) + "," + quote(pem_of(LEAF)),
            quote(pem_of(LEAF).replace("BEGIN CERTIFICATE", "BEGIN PRIVATE KEY")),
            quote("-----BEGIN CERTIFICATE-----\nYWJ\n-----END CERTIFICATE-----\n"),
            quote(pem_of(LEAF) + " " * (64 * 1024)),
        ],
    )
    def test_what_is_no_escaped_pem(self, value):
        with pytest.raises(CertificateHeaderMalformed):
            presented(NGINX, ("X-Client-Cert", value))

    def test_pem_as_servers_write_it(self):
        for text in (pem_of(LEAF), pem_of(LEAF).replace("\n", "\r\n"), "\n" + pem_of(LEAF) + "\n"):
            assert from_pem(text) == LEAF

    def test_what_was_read_once_is_read_in_the_same_way_again(self):
        """Each text by its own rules, however often it comes: what one reader takes, the other need not."""
        pem = pem_of(LEAF)
        for _ in range(2):
            assert from_pem(pem) == LEAF
            assert presented(NGINX, ("X-Client-Cert", quote(pem))).chain == (LEAF,)
            with pytest.raises(CertificateHeaderMalformed):
                from_pem(quote(pem))
            with pytest.raises(CertificateHeaderMalformed):
                from_pem(pem[:-4])

    @pytest.mark.parametrize("name", ["Attestd-" + "x" * 200, "attestd_" + "x" * 200, "Client_Cert", "X-CLIENT-CERT"])
    def test_names_are_reserved_at_any_length(self, name):
        assert is_reserved(name)
        assert is_reserved(name)
        assert not is_reserved("x" + name)

    def test_long_texts_are_read_and_not_kept(self):
        kept = hop._from_pem_again.cache_info().currsize
        assert from_pem(pem_of(LEAF) + "\n" * 16384) == LEAF
        assert hop._from_pem_again.cache_info().currsize == kept

    def test_authorization(self):
        found = presented(Door(), ("Authorization", "DPoP abc.def"), ("DPoP", "proof"))
        assert (found.scheme, found.token, found.proof) == ("dpop", "abc.def", "proof")
        assert presented(Door(), ("Authorization", "dpop abc")).scheme == "dpop"
        assert presented(Door(), ("Authorization", "Bearer abc"), ("DPoP", "p")).scheme == "bearer"
        assert presented(Door(), ("Authorization", "Basic dXNlcg==")).token is None
        assert presented(Door(), ("DPoP", "proof")).proof is None

    @pytest.mark.parametrize("value", ["DPoP", "DPoP ", "DPoP a b", "Bearer a,b", "Bearer \x00", "DPoP  a"])
    def test_authorization_that_is_none(self, value):
        with pytest.raises(AuthorizationMalformed):
            presented(Door(), ("Authorization", value))

    @pytest.mark.parametrize("name", ["Authorization", "DPoP"])
    def test_two_of_a_kind(self, name):
        """RFC 9449, section 4.3, step 1: not more than one DPoP header."""
        honest = [("Authorization", "DPoP abc"), ("DPoP", "p")]
        assert presented(Door(), *honest).token == "abc"
        with pytest.raises(HeaderDuplicated):
            presented(Door(), *honest, (name, "DPoP x" if name == "Authorization" else "q"))
