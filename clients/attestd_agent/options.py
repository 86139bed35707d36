"""What several of the agent's commands share: their options, and how they end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from attestd.errors import AttestdError
from attestd_agent.outcomes import report

StateOption = Annotated[
    Path,
    typer.Option(
        "--state-dir", envvar="ATTESTD_AGENT_STATE_DIR", help="Where the agent keeps its keys and what it knows (0700)."
    ),
]
TctiOption = Annotated[
    str,
    typer.Option(
        "--tcti",
        envvar="ATTESTD_AGENT_TCTI",
        help="The TPM: device:/dev/tpmrm0, swtpm:path=SOCKET or swtpm:host=HOST,port=PORT.",
    ),
]
ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server", envvar="ATTESTD_AGENT_SERVER", help="The service: https://HOST[:PORT]. Remembered after enrolling."
    ),
]
CaOption = Annotated[
    str | None,
    typer.Option(
        "--ca",
        envvar="ATTESTD_AGENT_CA",
        help="The service's root: a PEM file, or sha256:FINGERPRINT to fetch and pin it. Remembered.",
    ),
]
EkOption = Annotated[
    str | None,
    typer.Option(
        "--ek",
        envvar="ATTESTD_AGENT_EK",
        help="Which endorsement key, where the TPM has several: rsa-2048, ecc-p256, ecc-p384-high, …",
    ),
]
EkCertOption = Annotated[
    Path | None,
    typer.Option(
        "--ek-cert",
        envvar="ATTESTD_AGENT_EK_CERT",
        help="The EK certificate (DER or PEM, issuers may follow), where the TPM itself holds none.",
    ),
]
IakOption = Annotated[
    str | None,
    typer.Option(
        "--iak",
        envvar="ATTESTD_AGENT_IAK",
        help="Enroll by the machine maker's identity key (IAK) at this persistent handle, such as 0x81020001.",
    ),
]
IakCertOption = Annotated[
    Path | None,
    typer.Option(
        "--iak-cert",
        envvar="ATTESTD_AGENT_IAK_CERT",
        help="The IAK's certificate (DER or PEM, issuers may follow).",
    ),
]
EventLogOption = Annotated[
    Path | None,
    typer.Option(
        "--eventlog",
        envvar="ATTESTD_AGENT_EVENTLOG",
        help="The firmware's event log, where it is not the kernel's for this TPM.",
    ),
]
ImaOption = Annotated[
    Path | None,
    typer.Option(
        "--ima", envvar="ATTESTD_AGENT_IMA", help="IMA's measurement list, where it is not the kernel's for this TPM."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON; logs too.")]

DEFAULT_STATE = Path(os.environ.get("STATE_DIRECTORY", "/var/lib/attestd-agent").partition(":")[0])


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Ends the command with a typed error's exit code, after its report."""
    try:
        yield
    except AttestdError as error:
        raise typer.Exit(report(error, as_json=as_json)) from None
