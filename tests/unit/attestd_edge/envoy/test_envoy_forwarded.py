"""X-Forwarded-Client-Cert: one proxy's word, whole, or a refusal."""

from __future__ import annotations

import pytest

from attestd_edge.envoy.forwarded import MAX_HEADER, ForwardedCertMalformed, parse
from attestd_edge.hop import (
    CertificateHeaderMalformed,
    CertificateSource,
    Door,
    HeaderDuplicated,
    Headers,
    HopUnauthenticated,
    OnlyPeerHop,
    Peer,
    UnixSocketHop,
    is_reserved,
)
from tests import authority as a
from tests.envoy_asker import escaped, forwarded

LEAF = a.leaf()
DIGEST = "0123456789abcdef" * 4
DOOR = Door(CertificateSource.ENVOY, OnlyPeerHop())


@pytest.mark.parametrize(
    "text",
    [
        f'Hash={DIGEST};Cert="abc"',
        f"hash={DIGEST};CERT=abc",
        f'By=spiffe://a;By=spiffe://b;Hash={DIGEST};Cert="abc";Chain="abcdef";Subject="CN=a\\"b,c;d";URI=x;DNS=y;DNS=z',
        f'Hash={DIGEST};Cert="abc";URI=;Subject=""',
    ],
)
def test_what_envoy_writes(text):
    found = parse(text)
    assert (found.digest, found.certificate) == (DIGEST, "abc")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "seen"),
        ("Cert", "seen"),
        (f"Hash={DIGEST}", "no Cert"),
        (f"Hash={DIGEST};Cert=", "no Cert"),
        (f'Hash={DIGEST};Cert=""', "no Cert"),
        (f'Hash={DIGEST};Chain="abc"', "no Cert"),
        ('Cert="abc"', "Hash is not"),
        (f'Hash={DIGEST[1:]};Cert="abc"', "Hash is not"),
        (f'Hash={DIGEST.upper()};Cert="abc"', "Hash is not"),
        (f'Hash={DIGEST};Cert="abc";Cert="def"', "twice"),
        (f'Hash={DIGEST};Hash={DIGEST};Cert="abc"', "twice"),
        (f'Hash={DIGEST};Cert="abc";cert="def"', "twice"),
        (f'Hash={DIGEST};Cert="abc",Hash={DIGEST};Cert="abc"', "More than one"),
        (f'Hash={DIGEST};Cert="abc",', "More than one"),
        (f'Hash={DIGEST};Cert="abc', "seen"),
        (f'Hash={DIGEST};Cert="abc"x', "seen"),
        (f'Hash={DIGEST};Cert="abc";', "seen"),
        (f'Hash={DIGEST};Cert="abc";Other=x', "seen"),
        (f'Hash={DIGEST};Cert="abc"; URI=x', "seen"),
        (f'Hash={DIGEST};Cert="abc"' + ";DNS=x" * 80, "more than"),
        (f'Hash={DIGEST};Cert="{"a" * MAX_HEADER}"', "characters"),
    ],
)
def test_anything_else(text, why):
    with pytest.raises(ForwardedCertMalformed) as raised:
        parse(text)
    assert why in str(raised.value)


class TestAsACertificateSource:
    def present(self, *values, door=DOOR, peer=Peer()):  # noqa: B008
        headers = Headers.of([("X-Forwarded-Client-Cert", value) for value in values])
        return door.present(headers, peer).chain

    def test_from_the_hop(self):
        assert self.present(forwarded(LEAF)) == (LEAF,)
        assert self.present(forwarded(LEAF, "URI=spiffe://x", 'Chain="whatever"')) == (LEAF,)

    def test_nobody_has_none(self):
        assert self.present() == ()

    def test_not_from_anybody_else(self):
        door = Door(CertificateSource.ENVOY, UnixSocketHop())
        assert self.present(forwarded(LEAF), door=door, peer=Peer(unix=True)) == (LEAF,)
        assert self.present(forwarded(LEAF), door=door) == ()

    def test_not_without_a_hop(self):
        with pytest.raises(HopUnauthenticated):
            Door(CertificateSource.ENVOY)

    def test_twice(self):
        with pytest.raises(HeaderDuplicated):
            self.present(forwarded(LEAF), forwarded(LEAF))

    def test_the_certificate_must_be_the_digests(self):
        """A client whose certificate names `x;Cert="…"` as its URI writes a pair of its own where Envoy writes none."""
        mine, victim = a.leaf(serial=7), LEAF
        told = forwarded(mine).partition(";")[0]
        assert self.present(f'{told};Cert="{escaped(mine)}"') == (mine,)
        with pytest.raises(CertificateHeaderMalformed, match="digest"):
            self.present(f'{told};URI=x;Cert="{escaped(victim)}"')

    def test_it_is_no_contradiction_where_nginx_is_the_hop(self):
        door = Door(CertificateSource.NGINX, OnlyPeerHop())
        headers = Headers.of([("X-Client-Cert", escaped(LEAF)), ("X-Forwarded-Client-Cert", "of a mesh before us")])
        assert door.present(headers, Peer()).chain == (LEAF,)

    def test_other_proxies_headers_are_one(self):
        headers = Headers.of([("X-Forwarded-Client-Cert", forwarded(LEAF)), ("X-Client-Cert", escaped(LEAF))])
        with pytest.raises(HeaderDuplicated):
            DOOR.present(headers, Peer())

    @pytest.mark.parametrize("name", ["X-Forwarded-Client-Cert", "x_forwarded_client_cert"])
    def test_applications_do_not_see_it(self, name):
        assert is_reserved(name)
