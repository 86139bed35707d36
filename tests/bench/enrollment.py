"""What one enrollment costs the service, beside the cryptography that no service can do without:

    python -m tests.bench.enrollment          # a table
    python -m tests.bench.enrollment --profile  # where the time goes

Both verbs, from the octets of the request to the octets of the answer, with every check and a durable commit; event and
IMA logs left out. CPU time of the whole process (user and kernel, all threads), with CLIENTS requests at once; what the
devices compute is computed before and is not in it. The floor is measured in turns with it, each the median of its
turns: every signature check, signature and key agreement of an enrollment, alone, with `cryptography`.
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
from cryptography.hazmat.primitives.asymmetric import ec

from attestd.protocol.derivations import completion_proof
from attestd.protocol.messages import BeginAnswer, BeginRequest, CompleteRequest, WaitAnswer
from tests.forger import Forger
from tests.service import SoftDevice, World

CLIENTS = 16
ENROLLMENTS = 480
TURN = 16  # requests between two looks at the floor
_ECDSA = ec.ECDSA(hashes.SHA256())


def measure(database: str | None = None) -> list[dict[str, Any]]:
    """The benchmark's entries: {name, value, unit, against, ratio, goal, met}."""
    with tempfile.TemporaryDirectory(prefix="attestd-bench-") as folder:
        world = World(Path(folder), **({} if database is None else {"database": database}))
        floors = Floor()
        try:
            begin, complete = _run(world, _devices(world, ENROLLMENTS), floors)
        finally:
            world.close()
    operations = floors.medians()
    # Checked: the EK's certificate, the key's certification, the quote, the issued certificate when it is read back.
    # Signed: that certificate and the EAR. Agreed: the seed. What makers' intermediates say of each other is verified
    # once for all.
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


def _run(world: World, found: Sequence[SoftDevice], floors: Floor | None = None) -> tuple[float, float]:
    """CPU seconds that one begin and one complete take; without `floors`, a profile of them."""
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
        challenges = each(pool, begin, asked[:warm])
        begin_cost, more = cost(pool, begin, asked[warm:], floors)
        challenges += more
        completions = [_completion(device, answer) for device, answer in zip(found, challenges, strict=True)]
        each(pool, complete, completions[:warm])
        complete_cost, _ = cost(pool, complete, completions[warm:], floors)
    return begin_cost, complete_cost


def _completion(device: SoftDevice, answer: bytes) -> bytes:
    challenge = BeginAnswer.parse(answer)
    secret = device.tpm.activate(challenge.credential_blob, challenge.secret)
    body = device.evidence(challenge).to_bytes()
    return CompleteRequest(challenge.challenge, body, completion_proof(secret=secret, body=body)).to_bytes()


def each(pool: ThreadPoolExecutor, verb: Callable[[bytes], bytes], requests: Iterable[bytes]) -> list[bytes]:
    """The answers, with all of the pool's threads at once."""
    return list(pool.map(verb, requests))


def cost(
    pool: ThreadPoolExecutor, verb: Callable[[bytes], bytes], requests: Sequence[bytes], floors: Floor | None
) -> tuple[float, list[bytes]]:
    """The median CPU seconds of a request, in turns with `floors`, and the answers; without `floors`, a profile."""
    answers = []
    if floors is None:
        profiler = cProfile.Profile()
        for request in requests:
            profiler.enable()
            answers.append(verb(request))
            profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(45)
        return 0.0, answers
    costs = []
    for start in range(0, len(requests), TURN):
        some = requests[start : start + TURN]
        started = time.process_time()
        answers += each(pool, verb, some)
        costs.append((time.process_time() - started) / len(some))
        floors.turn()
    return statistics.median(costs), answers


class Floor:
    """CPU seconds of one P-256 verification, signature and key agreement, in turns with what is measured."""

    def __init__(self, **steps: Callable[[], object]) -> None:
        """`steps` are more of them, by name."""
        key, peer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        data, public = os.urandom(256), key.public_key()
        signature = key.sign(data, _ECDSA)

        def agree() -> None:
            ec.generate_private_key(ec.SECP256R1()).exchange(ec.ECDH(), peer.public_key())

        self._steps: dict[str, Callable[[], object]] = {
            "verify": lambda: public.verify(signature, data, _ECDSA),
            "sign": lambda: key.sign(data, _ECDSA),
            "agree": agree,
            **steps,
        }
        self._found: dict[str, list[float]] = {name: [] for name in self._steps}

    def turn(self) -> None:
        for name, step in self._steps.items():
            started = time.thread_time()
            for _ in range(20):
                step()
            self._found[name].append((time.thread_time() - started) / 20)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(values) for name, values in self._found.items()}


if __name__ == "__main__":
    if "--profile" in sys.argv:
        with tempfile.TemporaryDirectory(prefix="attestd-bench-") as scratch:
            there = World(Path(scratch))
            _run(there, _devices(there, 200))
            there.close()
    else:
        for entry in measure():
            print(entry)
