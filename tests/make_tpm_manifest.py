"""Writes the manifest of known makers' CA certificates from a folder that holds them:

    python tests/make_tpm_manifest.py FOLDER            writes certs/tpm-roots/manifest.csv
    python tests/make_tpm_manifest.py FOLDER --check    exits 1 if the file differs from what would be written

FOLDER holds one certificate a file (*.pem) and `index.csv`, whose columns `sha256` and `source` say where each was
found (`owner/repository@commit:path`). Only facts come out of it: attestd/tpm/known_makers.py describes the columns.
Lines are sorted by maker, name and date, so that a new certificate is a new line and nothing else.
"""

# ruff: noqa: T201

from __future__ import annotations

import csv
import io
import sys
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attestd.tpm.der import element, read_name
from attestd.tpm.ekcert import parse_certificate
from attestd.tpm.known_makers import COLUMNS, Manifest, write_date
from attestd.tpm.makers import certificates_in, describe_certificate

MANIFEST = Path(__file__).resolve().parent.parent / "certs" / "tpm-roots" / "manifest.csv"

# Who makes the chip, by the organization that a certificate (or else its issuer) names. Two makers' oldest chains end
# at a public CA of those days; Intel's on-die CAs name no organization.
MAKERS = {
    "Advanced Micro Devices": "AMD",
    "Aliyun": "Alibaba Cloud",
    "Atmel": "Atmel",
    "GlobalSign": "STMicroelectronics",
    "Google": "Google",
    "Infineon": "Infineon",
    "Intel": "Intel",
    "Microsoft": "Microsoft",
    "NSING": "Nationz",
    "Nation": "Nationz",
    "Nuvoton": "Nuvoton",
    "Qualcomm": "Qualcomm",
    "STMicroelectronics": "STMicroelectronics",
    "VeriSign": "Infineon",
    "www.intel.com": "Intel",
}
_ORGANIZATION, _COMMON_NAME = "2.5.4.10", "2.5.4.3"


def maker_of(der: bytes) -> str:
    """The maker's name. Raises KeyError for one that is not in the table."""
    certificate = parse_certificate(der)
    for name in (certificate.subject, certificate.issuer):
        attributes = dict(read_name(element(name)))
        for kind in (_ORGANIZATION, _COMMON_NAME):
            for begin, maker in MAKERS.items():
                if attributes.get(kind, "").startswith(begin):
                    return maker
    raise KeyError(describe_certificate(der, now=datetime.now(UTC)).subject)


def manifest_of(folder: Path) -> str:
    """The manifest's text. Each certificate is read by the product's own parser, and a root's signature verified."""
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        sources = {row["sha256"]: row["source"] for row in csv.DictReader(file)}
    lines = []
    for path in sorted(folder.glob("*.pem")):
        (der,) = certificates_in(path.read_bytes())
        found = describe_certificate(der, now=datetime.now(UTC))
        repository, _, commit = sources[found.sha256.hex()].partition(":")[0].partition("@")
        lines.append(
            (
                maker_of(der),
                found.kind,
                found.purposes,
                found.key,
                write_date(found.not_before),
                write_date(found.not_after),
                found.sha256.hex(),
                found.subject,
                f"{repository}@{commit[:12]}",
            )
        )
    lines.sort(key=lambda line: (line[0], line[7], line[4], line[6]))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
    Manifest.parse(text.getvalue().encode())
    return text.getvalue()


def main(arguments: list[str]) -> int:
    """`FOLDER [--check]` -> the exit code."""
    if not arguments or len(arguments) > 2 or arguments[1:] not in ([], ["--check"]):
        print(__doc__)
        return 2
    text = manifest_of(Path(arguments[0]))
    if arguments[1:]:
        same = MANIFEST.is_file() and MANIFEST.read_text("utf-8") == text
        print(f"{MANIFEST} is {'up to date' if same else 'not what this folder gives'}")
        return 0 if same else 1
    MANIFEST.parent.mkdir(exist_ok=True)
    MANIFEST.write_text(text, "utf-8")
    print(f"{MANIFEST}: {text.count(chr(10)) - 1} certificates")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
