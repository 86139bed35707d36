"""What impostors try, each with the real thing at hand that a real one could have. All of them must fail."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives.asymmetric import ec

from attestd.protocol.derivations import completion_proof, device_quote_data
from attestd.protocol.evidence import QuoteEvidence
from attestd.protocol.messages import AttestationRequest, BeginRequest, CompleteRequest
from attestd_demo.world import Gadget


def enroll_without_tpm(victim: Gadget) -> None:
    """A software key that poses as the attestation key of a genuine TPM, whose EK and certificate anybody can read.

    The attributes in its public area are copied from a real AK, so it looks restricted and bound to the TPM. The
    service answers with a challenge; only the TPM could open it, and only for a key that it holds. So the proof is a
    guess.
    """
    agent = victim.agent
    endorsement = agent.device.endorsement()
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    area = victim.session.enrolled.ak.area
    point = b"".join(b"\x00\x20" + number.to_bytes(32, "big") for number in (numbers.x, numbers.y))
    software_ak = area[: -len(point)] + point
    begun = agent.server.begin(BeginRequest(endorsement.public, software_ak, endorsement.certificates))
    body = b"{}"
    guess = completion_proof(secret=os.urandom(32), body=body)
    agent.server.complete(CompleteRequest(begun.challenge, body, guess))


def replay_quote(thief: Gadget, victim: Gadget) -> None:
    """An enrolled device that answers with another one's quote, made for the very nonce that the thief was given."""
    theirs, mine = victim.session.enrolled, thief.session.enrolled

    def build(nonce: bytes) -> bytes:
        data = device_quote_data(
            nonce=nonce, device_id=mine.record.device_id, ak_name=mine.ak.name, ck_name=mine.ck.name
        )
        quoted = victim.agent.device.quote(theirs.ak, data, theirs.record.selection)
        return AttestationRequest(QuoteEvidence(quoted.attest, quoted.signature, quoted.pcrs)).to_bytes()

    thief.agent.server.attest(build, sign=thief.session.sign, kid=mine.record.device_id)
