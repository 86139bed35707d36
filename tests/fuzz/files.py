"""Files that people write or hand over: inventories, policies, settings, profiles, keys."""

from __future__ import annotations

import struct
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from attestd_certs import __file__ as _certs
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from attestd.ca.profiles import Profile
from attestd.ca.sealing import SealingKey, SealingKeys, sealing_file
from attestd.cli.appraise.quote import read_pcrs
from attestd.config import Settings
from attestd.credentials.requests import SoftwareKey
from attestd.operations.certifying import read_public_key
from attestd.policy import PolicySet, default_policy, edge_tokens_policy
from attestd.registry.inventory import parse_inventory
from attestd.tpm.advisories import Advisories
from attestd.tpm.firmware import Firmware
from tests import authority as a
from tests.fuzz.harness import Target

_HASH = "ab" * 32
_CSV = f"""ek_hash,serial_number,tier,site,labels,label.lane,id
{_HASH},SN-1,device,munich,fleet=bikes;kind=till,3,
{"cd" * 32},"SN,2",edge,shop-1,,,till-7
""".encode()
_JSON_LINES = (
    f'{{"ek_hash":"{_HASH}","tier":"device","site":"munich","labels":{{"fleet":"bikes"}}}}\n'
    f'{{"ek_hash":"{"cd" * 32}","tier":"edge","site":"shop-1","serial_number":"SN-2","id":"till-7"}}\n'
).encode()
_SETTINGS = b"""
trust_domain = "example.org"
[server]
listen = "127.0.0.1:8443"
public_url = "https://attestd.example.org"
names = ["localhost"]
workers = 2
[database]
url = "sqlite:///registry.db"
[enrollment]
[attestation]
validity = "4h"
pcrs = { sha256 = [0, 1, 7] }
[credentials]
[bundle]
stale_after = "5m"
[[reference]]
name = "image 12"
tier = "device"
[reference.pcrs.sha256]
7 = ["%s"]
""" % (b"ab" * 32)


def _inventory(data: bytes) -> None:
    entries = parse_inventory(data)
    assert len({entry.ek_hash for entry in entries}) == len(entries)
    assert all(f"{entry.ek_hash.hex()}" in data.decode().lower() for entry in entries)


def _policy(data: bytes) -> None:
    """What is accepted is accepted again, and says the same of itself."""
    text = data.decode("latin-1")
    policies = PolicySet.parse(text, 1)
    again = PolicySet.parse(text, 1)
    assert (again.reads, again.ids) == (policies.reads, policies.ids)


def _settings(data: bytes) -> None:
    with TemporaryDirectory(prefix="fuzz-settings-") as folder:
        (Path(folder) / "attestd.toml").write_bytes(data)
        settings = Settings.load(Path(folder), {})
    assert settings.database_url
    assert settings.server.url.startswith("https://")
    assert settings.attestation.validity > timedelta(0)


def _environment(data: bytes) -> None:
    """The same settings by the environment: ATTESTD_SECTION_NAME=value, a line each."""
    pairs = (line.partition("=") for line in data.decode("latin-1").replace("\0", "").split("\n"))
    environ = {f"ATTESTD_{name}": value for name, _, value in pairs}
    with TemporaryDirectory(prefix="fuzz-settings-") as folder:
        (Path(folder) / "attestd.toml").write_text('trust_domain = "example.org"\n')
        assert Settings.load(Path(folder), environ).server.url


def _profile(data: bytes) -> None:
    profile = Profile.parse("fuzz", data.decode("utf-8", "replace"))
    assert profile.lifetime
    assert "digitalSignature" in profile.key_usage


def _profiles() -> list[bytes]:
    folder = Path(_certs).parent / "profiles"
    return [path.read_bytes() for path in sorted(folder.glob("*.toml"))]


def _advisories(data: bytes) -> None:
    """Whatever is taken concerns its own maker's chips, from its first version to its last."""
    for known in Advisories.parse(data).listed:
        for first, last in known.firmware:
            for version in (first, last):
                assert known.concerns(known.maker, "".join(known.models[:1]), version)
        assert not known.concerns(known.maker + "x", "", Firmware((1, 0)))


_SELECTION = (("sha256", (0, 7)), ("sha384", (2,)))


def _pcr_values(data: bytes) -> None:
    """Values by bank and index; whether they are the quoted ones, the quote's digest says."""
    for bank, values in read_pcrs(data, _SELECTION).items():
        assert isinstance(bank, str)
        assert all(isinstance(index, int) and isinstance(value, bytes) for index, value in values.items())


def _pcr_files() -> list[bytes]:
    """As JSON, as printed, in a row, and as the C structures that tpm2-tools write."""
    a, b, c = b"\x01" * 32, b"\x02" * 32, b"\x03" * 48
    entries = struct.pack("<HB4sx", 0x0B, 3, b"\x81") + struct.pack("<HB4sx", 0x0C, 3, b"\x04")
    digests = b"".join(struct.pack("<H64s", len(digest), digest) for digest in (a, b, c))
    return [
        b'{"sha256": {"0": "%s", "7": "%s"}}' % (a.hex().encode(), b.hex().encode()),
        f"  sha256:\n    0 : 0x{a.hex()}\n    7 : 0x{b.hex()}\n  sha384:\n    2 : 0x{c.hex()}\n".encode(),
        a + b + c,
        struct.pack("<I", 2) + entries.ljust(128, b"\0") + struct.pack("<II", 1, 3) + digests.ljust(528, b"\0"),
    ]


def _sealing(data: bytes) -> None:
    with TemporaryDirectory(prefix="fuzz-sealing-") as folder:
        file = Path(folder) / "sealing.json"
        file.touch(0o600)
        file.write_bytes(data)
        Path(folder).chmod(0o700)
        keys = SealingKeys.load(file)
    sealed = keys.seal(b"secret", purpose="fuzz", entropy=bytes)
    assert keys.open(sealed, purpose="fuzz") == b"secret"


def _sealing_seeds() -> list[bytes]:
    return [sealing_file([SealingKey(bytes(8), "current", bytes(32)), SealingKey(b"1" * 8, "old", b"1" * 32)])]


def _private_key(data: bytes) -> None:
    key = SoftwareKey.from_pem(data)
    assert len(key.sign(b"message")) == 64


def _public_key(data: bytes) -> None:
    assert read_public_key(data.decode("latin-1")).curve.name == "secp256r1"


TARGETS = (
    Target(
        "inventory-csv",
        _inventory,
        lambda: [_CSV, b"\xef\xbb\xbf" + _CSV],
        (b",", b'"', b"\r\n", b"\x00", b"label.", b"labels", b"=;", b"\xef\xbb\xbf"),
    ),
    Target("inventory-jsonl", _inventory, lambda: [_JSON_LINES], (b"{", b"}\n", b'"labels":', b"null", b"[1]")),
    Target(
        "policy",
        _policy,
        lambda: [default_policy().encode(), edge_tokens_policy().encode()],
        (b"permit(", b"forbid", b" when {", b"if true then ", b"principal", b"((((", b"@id(", b"ip(", b"\\u{d800}"),
    ),
    Target(
        "settings",
        _settings,
        lambda: [_SETTINGS],
        (b"= -1\n", b"= inf\n", b"= 1979-05-27\n", b"[server]\n", b"9" * 30, b'"9999999999999d"', b"[[reference]]\n"),
    ),
    Target(
        "settings-environment",
        _environment,
        lambda: [
            b"SERVER_LISTEN=127.0.0.1:1\nSERVER_WORKERS=3\nATTESTATION_VALIDITY=2h\nSERVER_NAMES=a.example,b.example"
        ],
        (b"SERVER_PUBLIC_URL=", b"BUNDLE_STALE_AFTER=", b"DATABASE_URL="),
        limit=2048,
    ),
    Target(
        "tpm-advisories",
        _advisories,
        lambda: [(Path(_certs).parent / "tpm-advisories.toml").read_bytes()],
        (b"[[advisory]]\n", b'firmware = ["7.0 - 7.61"]\n', b'claim = "warning"\n', b"= []\n", b"= 1\n"),
    ),
    Target("pcr-values", _pcr_values, _pcr_files, (b"sha256:", b" : 0x", b"\xff\xff\xff\xff", b'{"'), limit=4096),
    Target("profile", _profile, _profiles, (b'lifetime = "1d"\n', b"[]", b"= 1\n"), limit=2048),
    Target("sealing-keys", _sealing, _sealing_seeds, (b'"state":"current"', b"[]"), limit=2048),
    Target(
        "private-key",
        _private_key,
        lambda: [a.LEAF_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())],
        (b"-----BEGIN EC PRIVATE KEY-----\n", b"-----BEGIN PRIVATE KEY-----\n", b"-----END PRIVATE KEY-----\n"),
        limit=1024,
    ),
    Target(
        "public-key",
        _public_key,
        lambda: [a.LEAF_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)],
        (b"-----BEGIN PUBLIC KEY-----\n", b"-----END PUBLIC KEY-----\n", b"-----BEGIN RSA PUBLIC KEY-----\n"),
        limit=1024,
    ),
)
