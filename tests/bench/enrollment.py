"""What one enrollment costs the service, beside the cryptography that no service can do without:

    python -m tests.bench.enrollment          # a table
    python -m tests.bench.enrollment --profile  # where the time goes

Both verbs, from the octets of the request to the octets of the answer, with every check and a durable commit; event and
IMA logs left out. CPU time of the whole process (user and kernel, all threads), with CLIENTS requests at once; what the
devices compute is computed before and is not in it. The floor is measured in the same run: every signature check,
signature and key agreement or encryption that an enrollment does, alone, with `cryptography`.
"""

# ruff: noqa: T201

from __future__ import annotations

import cProfile
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from attestd.protocol.derivations import completion_proof
from attestd.protocol.messages import BeginAnswer, BeginRequest, CompleteRequest, WaitAnswer
from tests.forger import Forger
from tests.service import SoftDevice, World

CLIENTS = 16
ENROLLMENTS = 400
_ECDSA = ec.ECDSA(hashes.SHA256())
_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\x00")


def measure(database: str | None = None) -> list[dict[str, Any]]:
    """The benchmark's entries: {name, value, unit, against, ratio, goal, met}."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        world = World(Path(folder), **({} if database is None else {"database": database}))
        try:
            begin, complete = _run(world, _devices(world, ENROLLMENTS))
        finally:
            world.close()
    operations = _floor()
    floor = 4 * operations["verify"] + 2 * operations["sign"] + operations["agree"]
    spent = begin + complete
    return [
        {
            "name": "enrollment, server CPU",
            "value": round(spent * 1e6, 1),
            "unit": "µs",
            "against": f"its cryptography alone, {floor * 1e6:.0f} µs in the same run",
            "ratio": round(spent / floor, 2),
            "goal": "at most 3 times",
            "met": spent <= 3 * floor,
            "parts": {"begin": round(begin * 1e6, 1), "complete": round(complete * 1e6, 1)},
        }
    ]


def _devices(world: World, count: int) -> list[SoftDevice]:
    """Devices that the inventory knows; none has been here before."""
    found = [world.device(Forger()) for _ in range(count)]
    lines = "".join(f"{device.ek_hash.hex()},device,shop-1\n" for device in found)
    answer = world.operator.post(
        "/v1/admin/devices/import", b"ek_hash,tier,site\n" + lines.encode(), content_type="text/csv"
    )
    assert answer.status_code == 200, answer.text
    return found


def _run(world: World, found: Sequence[SoftDevice], profile: bool = False) -> tuple[float, float]:
    """CPU seconds that one begin and one complete take."""
    enrollment, now = world.service.enrollment, world.clock()

    def begin(request: bytes) -> bytes:
        return enrollment.begin(BeginRequest.parse(request), now=now).to_bytes()

    def complete(request: bytes) -> bytes:
        answer = enrollment.complete(CompleteRequest.parse(request), now=now, request_id="bench")
        assert not isinstance(answer, WaitAnswer)
        return answer

    asked = [device.begin_request().to_bytes() for device in found]
    warm = len(found) // 8
    with ThreadPoolExecutor(CLIENTS) as pool:
        challenges = _each(pool, begin, asked[:warm])
        begin_cost, more = _cost(pool, begin, asked[warm:], profile)
        challenges += more
        completions = [_completion(device, answer) for device, answer in zip(found, challenges, strict=True)]
        _each(pool, complete, completions[:warm])
        complete_cost, _ = _cost(pool, complete, completions[warm:], profile)
    return begin_cost, complete_cost


def _completion(device: SoftDevice, answer: bytes) -> bytes:
    challenge = BeginAnswer.parse(answer)
    secret = device.tpm.activate(challenge.credential_blob, challenge.secret)
    body = device.evidence(challenge).to_bytes()
    return CompleteRequest(challenge.challenge, body, completion_proof(secret=secret, body=body)).to_bytes()


def _each(pool: ThreadPoolExecutor, verb: Callable[[bytes], bytes], requests: Iterable[bytes]) -> list[bytes]:
    return list(pool.map(verb, requests))


def _cost(
    pool: ThreadPoolExecutor, verb: Callable[[bytes], bytes], requests: Sequence[bytes], profile: bool
) -> tuple[float, list[bytes]]:
    if profile:
        profiler = cProfile.Profile()
        answers = []
        for request in requests:
            profiler.enable()
            answers.append(verb(request))
            profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
        return 0.0, answers
    started = time.process_time()
    answers = _each(pool, verb, requests)
    return (time.process_time() - started) / len(requests), answers


def _floor() -> dict[str, float]:
    """CPU seconds of one P-256 verification, signature and key agreement, and of one RSA-2048 OAEP encryption."""
    key, peer, data = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()), os.urandom(256)
    signature, public = key.sign(data, _ECDSA), key.public_key()
    large = rsa.generate_private_key(65537, 2048).public_key()

    def agree() -> None:
        ec.generate_private_key(ec.SECP256R1()).exchange(ec.ECDH(), peer.public_key())

    steps: dict[str, Callable[[], object]] = {
        "verify": lambda: public.verify(signature, data, _ECDSA),
        "sign": lambda: key.sign(data, _ECDSA),
        "agree": agree,
        "encrypt": lambda: large.encrypt(b"x" * 32, _OAEP),
    }
    found: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(20):
        for name, step in steps.items():
            started = time.thread_time()
            for _ in range(50):
                step()
            found[name].append((time.thread_time() - started) / 50)
    return {name: statistics.median(values) for name, values in found.items()}


if __name__ == "__main__":
    if "--profile" in sys.argv:
        with tempfile.TemporaryDirectory(prefix="attestd-bench-") as scratch:
            there = World(Path(scratch))
            _run(there, _devices(there, 200), profile=True)
            there.close()
    else:
        for entry in measure():
            print(entry)
