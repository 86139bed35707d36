"""Authority: what signs, until when, what comes next; and whose chips are trusted, with what depends on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flask import Blueprint, Response, abort, request

from attestd_console import figures
from attestd_console.acts import Act, Failed
from attestd_console.api import at
from attestd_console.console import Console

SOON: Final = 30 * 86400  # seconds before its end from which a certificate is worth a word
_MAX_FILE: Final = 512 * 1024
_PEM: Final = b"-----BEGIN CERTIFICATE-----"

# What each kind of key is for, in the order of the hierarchy.
PURPOSES: Final[Mapping[str, tuple[str, str]]] = {
    "root": ("Root", "vouches for everything below; needed only to replace it"),
    "issuer": ("Issuing CA", "signs devices’, proxies’ and operators’ certificates"),
    "bundle": ("Bundles", "signs what edges decide by"),
    "audit": ("Audit heads", "signs the audit trail’s tree"),
    "token": ("Tokens", "signs access tokens"),
    "sealing": ("Sealing", "protects challenges and nonces; signs nothing"),
}
STAGES: Final[Mapping[str, str]] = {
    "prepare": "make the next key",
    "activate": "let the next key sign",
    "retire": "forget the old key",
}
LASTING: Final[Mapping[str, str]] = {
    "device": "A device’s certificate",
    "edge": "An edge machine’s certificate",
    "cloud": "A cloud machine’s certificate",
    "token": "An access token",
    "bundle": "An edge’s bundle, without news",
    "proxy": "A proxy’s certificate",
    "admin": "An operator’s certificate",
    "server": "The service’s own certificate",
    "issuer": "An issuing CA",
    "root": "A root",
}


@dataclass(frozen=True, slots=True)
class Maker:
    """A TPM maker's certificate, and how many devices enrolled under it."""

    sha256: str
    subject: str
    not_after: int
    is_root: bool
    added_by: str
    added_at: int
    devices: int

    @property
    def name(self) -> str:
        return common_name(self.subject)


def routes(console: Console) -> Blueprint:
    page = Blueprint("authority", __name__)

    def shown(failed: Failed | None = None) -> Response:
        standing = console.api().get("/v1/admin/authority")
        keys: Sequence[Mapping[str, Any]] = standing["keys"]
        return console.page(
            "authority.html",
            topics=("trust",),
            failed=failed,
            lead=lead(standing),
            kinds=[(kind, *PURPOSES[kind], [key for key in keys if key["kind"] == kind]) for kind in PURPOSES],
            certificates=standing["certificates"],
            due=[(*PURPOSES[due["kind"]], due) for due in standing["due"] if due["kind"] in PURPOSES],
            stages=STAGES,
            lifetimes=[
                (LASTING[name], standing["lifetimes"][name]) for name in LASTING if name in standing["lifetimes"]
            ],
            makers=makers(console),
            soon=SOON,
            common_name=common_name,
        )

    @page.get("/authority")
    def authority() -> Response:
        return shown()

    @page.post("/authority/makers")
    def trust() -> Response:
        file = request.files.get("file")
        content = b"" if file is None else file.stream.read(_MAX_FILE + 1)
        pasted = request.form.get("pem", "").encode()
        body = content or pasted
        kind = "application/pem-certificate-chain" if _PEM in body else "application/octet-stream"
        done = console.carry_out(
            Act(
                "POST",
                "/v1/admin/trust",
                body=body,
                content_type=kind,
                then="/authority",
                said="The maker’s certificates are trusted from now on.",
            )
        )
        return shown(done) if isinstance(done, Failed) else done

    @page.get("/authority/makers/<sha256>")
    def maker(sha256: str) -> Response:
        return confirm(sha256)

    def confirm(sha256: str, failed: Failed | None = None) -> Response:
        found = next((one for one in makers(console) if one.sha256 == sha256), None)
        if found is None:
            abort(404)
        return console.page("authority_maker.html", failed=failed, maker=found)

    @page.post("/authority/makers/<sha256>")
    def distrust(sha256: str) -> Response:
        done = console.carry_out(
            Act(
                "DELETE",
                at("v1", "admin", "trust", sha256),
                then="/authority",
                said="That maker’s certificate is trusted no longer.",
            )
        )
        return confirm(sha256, done) if isinstance(done, Failed) else done

    return page


def makers(console: Console) -> list[Maker]:
    """Whom this instance trusts, those with the most devices first."""
    api = console.api()
    counted = {one["sha256"]: int(one["devices"]) for one in api.get("/v1/admin/trust/dependents")["makers"]}
    found = [
        Maker(
            sha256=one["sha256"],
            subject=one["subject"],
            not_after=one["not_after"],
            is_root=one["is_root"],
            added_by=one["added_by"],
            added_at=one["added_at"],
            devices=counted.get(one["sha256"], 0),
        )
        for one in api.get("/v1/admin/trust")["makers"]
    ]
    return sorted(found, key=lambda one: (-one.devices, one.subject, one.sha256))


def lead(standing: Mapping[str, Any]) -> str:
    """The page's first sentence: what ends first among what is in use, and whether its successor is there."""
    now = int(standing["time"])
    current = [key for key in standing["keys"] if key["state"] == "current" and key["ends"] is not None]
    if not current:
        return "There is no certificate in use."
    first = min(current, key=lambda key: int(key["ends"]))
    name = PURPOSES[first["kind"]][0]
    if int(first["ends"]) <= now:
        return f"{name} {first['name']} has ended. Rotate it now: nothing that it signs is accepted."
    ends = f"{name} {first['name']} is the next to end, {figures.left(int(first['ends']), now)}"
    ready = any(key["kind"] == first["kind"] and key["state"] == "next" for key in standing["keys"])
    if ready:
        return f"{ends}. Its successor is ready."
    if int(first["ends"]) - now < SOON:
        return f"{ends}, and no successor is ready."
    return f"{ends}. Nothing has to be done."


def common_name(subject: str) -> str:
    """The part of an RFC 4514 name that people say, or all of it."""
    for part in subject.replace("\\,", "\N{FULLWIDTH COMMA}").split(","):
        name, _, value = part.partition("=")
        if name.strip().upper() == "CN" and value:
            return value.replace("\N{FULLWIDTH COMMA}", ",")
    return subject
