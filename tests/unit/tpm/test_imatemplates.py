"""One entry of an IMA list: every template in both forms, and each lie in its fields."""

from __future__ import annotations

import struct

import pytest

from attestd.tpm.imatemplates import (
    HASH_BY_NUMBER,
    HASH_SIZES,
    FileDigest,
    MalformedImaEntry,
    data_of_text,
    fields_of,
    read_event,
)
from tests import ima_lists as w

ITEMS = {
    "ima": w.old("/bin/sh"),
    "ima-ng": w.ng("/bin/sh"),
    "ima-ngv2": w.ngv2("/bin/sh"),
    "ima-ngv2, verity": w.ngv2("/bin/sh", kind="verity"),
    "ima-sig": w.sig("/bin/sh", signature=b"signature"),
    "ima-sig, unsigned": w.sig("/bin/sh"),
    "ima-sigv2": w.sigv2("/bin/sh", b"content", b"signature"),
    "ima-buf": w.buf("kexec-cmdline", b"quiet"),
    "ima-modsig": w.modsig("/lib/a.ko", b"whole", b"content", b"cms"),
    "ima-modsig, unsigned": w.modsig("/lib/a.ko", b"whole", None, b""),
    "evm-sig": w.evm_sig("/bin/sh"),
}
every_template = pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)


def shown(item: w.Item) -> bytes:
    """What an entry's text line has after the template's name."""
    return item.text().rstrip("\n").split(" ", 3)[3].encode()


@every_template
def test_every_template_is_read(item: w.Item) -> None:
    event = read_event(item.template.encode(), item.data())
    assert event.name == item.fields[1][0].rstrip(b"\0")
    assert event.digest.value == w.digest_of(
        {"ima-buf": b"quiet", "ima-modsig": b"whole"}.get(item.template, b"content"), event.digest.algorithm
    )


@every_template
def test_text_stands_for_the_same_octets(item: w.Item) -> None:
    assert data_of_text(item.template.encode(), shown(item)) == item.data()


@pytest.mark.parametrize("item", [w.ng("/bin/sh"), w.sig("/bin/sh", signature=b"s")], ids=["ima-ng", "ima-sig"])
def test_big_endian_numbers(item: w.Item) -> None:
    data = item.data(">")
    assert read_event(item.template.encode(), data, "big") == read_event(item.template.encode(), item.data())
    assert data_of_text(item.template.encode(), shown(item), "big") == data
    with pytest.raises(MalformedImaEntry):
        read_event(item.template.encode(), data, "little")


def test_what_each_template_brings() -> None:
    signed = read_event(b"ima-sig", ITEMS["ima-sig"].data())
    assert (signed.signature, signed.buffer, signed.modsig) == (b"signature", None, b"")
    measured = read_event(b"ima-buf", ITEMS["ima-buf"].data())
    assert (measured.buffer, measured.signature) == (b"quiet", b"")
    module = read_event(b"ima-modsig", ITEMS["ima-modsig"].data())
    assert (module.modsig, module.modsig_digest) == (b"cms", FileDigest("sha256", w.digest_of(b"content")))
    verity = read_event(b"ima-ngv2", ITEMS["ima-ngv2, verity"].data())
    assert verity.digest == FileDigest("sha256", w.digest_of(b"content"), "verity")


def test_a_custom_template_is_named_by_its_format() -> None:
    item = w.sig("/bin/sh", signature=b"s")
    assert read_event(b"d-ng|n-ng|sig", item.data()) == read_event(b"ima-sig", item.data())
    assert data_of_text(b"d-ng|n-ng|sig", shown(item)) == item.data()
    assert fields_of(b"d-ng|n-ng|nonsense") is None
    assert fields_of(b"|".join([b"sig"] * 15)) is not None
    assert fields_of(b"|".join([b"sig"] * 16)) is None


def test_a_custom_template_with_the_oldest_fields_has_lengths() -> None:
    digest = w.digest_of(b"content", "sha1")
    data = struct.pack("<I", 20) + digest + struct.pack("<I", 8) + b"/bin/sh\0"
    event = read_event(b"d|n", data)
    assert (event.digest, event.name) == (FileDigest("sha1", digest), b"/bin/sh")
    assert data_of_text(b"d|n", digest.hex().encode() + b" /bin/sh") == data
    md5 = struct.pack("<I", 16) + bytes(16) + struct.pack("<I", 8) + b"/bin/sh\0"
    assert read_event(b"d|n", md5).digest.algorithm == "md5"


def test_spaces_that_tools_cut_off_the_end_and_spaces_in_names() -> None:
    item = ITEMS["ima-sig, unsigned"]
    assert shown(item).endswith(b" ")
    assert data_of_text(b"ima-sig", shown(item).rstrip(b" ")) == item.data()
    digest = w.digest_of(b"x").hex().encode()
    assert data_of_text(b"ima-ng", b"sha256:" + digest + b" /a b") == data_of_text(
        b"ima-ng", b"sha256:" + digest + b" /a_b"
    ).replace(b"/a_b", b"/a b")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1\0\0",
        struct.pack("<I", 100) + b"sha256:\0",
        w.ng("/bin/sh").data()[:-1],
        w.ng("/bin/sh").data() + b"\0",
        w.ng("/bin/sh").data().replace(b"sha256", b"sha257"),
        w.ng("/bin/sh").data().replace(b"sha256:\0", b"sha256:!"),
        w.ng("/bin/sh").data().replace(b"sha256", b"sha384"),
        w.ng("/bin/sh").data().replace(b"/bin/sh", b"/bi\0/sh"),
        w.ng("/bin/sh").data()[:-1] + b"!",
        w.ngv2("/bin/sh").data(),
        struct.pack("<III", 0xFFFFFFFF, 0, 0),
    ],
    ids=[
        "nothing", "half a length", "a field longer than the entry", "an octet less", "an octet more", "unknown hash",
        "no NUL behind the hash", "a size of another hash", "NUL in the name", "a name without NUL", "a digest of v2",
        "a huge length",
    ],
)  # fmt: skip
def test_one_lie_in_the_fields(data: bytes) -> None:
    with pytest.raises(MalformedImaEntry):
        read_event(b"ima-ng", data)


def test_lies_in_other_templates() -> None:
    for template, data in (
        (b"ima-ngv2", w.ng("/bin/sh").data()),
        (b"ima-ngv2", w.ngv2("/bin/sh").data().replace(b"ima:sha256", b"imp:sha256")),
        (b"ima-sig", w.ng("/bin/sh").data()),
        (b"ima", w.old("/bin/sh").data()[:-1]),
        (b"ima", w.old("/bin/sh").data()[:-1] + b"!"),
        (b"d-ng|sig", w.Item("", (w.ng("/bin/sh").fields[0], w.hexed(b""))).data()),
        (b"n-ng|sig", struct.pack("<I", 2) + b"a\0" + struct.pack("<I", 0)),
        (b"not-ima", w.ng("/bin/sh").data()),
    ):
        with pytest.raises(MalformedImaEntry):
            read_event(template, data)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (b"ima-ng", b"sha256:zz /bin/sh"),
        (b"ima-ng", b"sha256:abc /bin/sh"),
        (b"ima-ng", b"sha256:ab\t /bin/sh"),
        (b"ima-sig", b"sha256:ab /bin/sh 0g"),
        (b"ima", b"ab " + b"x" * 256),
        (b"evm-sig", b"sha256:ab /bin/sh 05 a 00 00 -1 0 0"),
        (b"evm-sig", b"sha256:ab /bin/sh 05 a 00 00 4294967296 0 0"),
        (b"evm-sig", b"sha256:ab /bin/sh 05 a 00 00 0 0 65536"),
        (b"not-ima", b"sha256:ab /bin/sh"),
    ],
)
def test_text_that_stands_for_nothing(template: bytes, text: bytes) -> None:
    with pytest.raises(MalformedImaEntry):
        data_of_text(template, text)


def test_a_digest_has_one_spelling() -> None:
    value = w.digest_of(b"x")
    digest = FileDigest("sha256", value)
    assert (digest.text, digest.field) == (f"sha256:{value.hex()}", b"sha256:\0" + value)
    assert FileDigest.parse(digest.text) == digest
    verity = FileDigest("sha256", value, "verity")
    assert (verity.text, verity.field) == (f"verity:sha256:{value.hex()}", b"verity:sha256:\0" + value)
    assert FileDigest.parse(verity.text) == verity
    assert FileDigest.parse(f"ima:sha256:{value.hex().upper()}") == digest
    for text in ("sha256", "sha256:", f"sha1:{value.hex()}", f"other:{digest.text}", f"sha256: {value.hex()}", ""):
        with pytest.raises(MalformedImaEntry):
            FileDigest.parse(text)


def test_the_kernels_numbers_of_hashes() -> None:
    """include/uapi/linux/hash_info.h."""
    for name, number in w.NUMBERS.items():
        assert HASH_BY_NUMBER[number] == name
        assert HASH_SIZES[name] == len(w.digest_of(b"", name))
    assert len(HASH_BY_NUMBER) == 23
