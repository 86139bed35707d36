"""One target under atheris, in this process: `python -m tests.fuzz.guided TARGET FOLDER SECONDS`.

libFuzzer's own reports go to stderr. A find ends the process with an error, and leaves `crash-*` in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

OURS = ("attestd", "attestd_agent", "attestd_edge")

# The parsers under test, and the one library in Python that they lean on, tell which branches an input took.
with atheris.instrument_imports(include=[*OURS, "asn1crypto"]):
    from tests.fuzz.targets import by_name


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{octet:02x}" for octet in word)


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name, folder, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    target = by_name(name)
    seeds, corpus, words = folder / "seeds", folder / "corpus", folder / "words"
    for made in (seeds, corpus):
        made.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={target.limit}",
        f"-artifact_prefix={folder}/",
        *([f"-dict={words}"] if target.words else []),
        "-rss_limit_mb=2048",  # a process with every room instrumented has 1,100 before it begins
        "-malloc_limit_mb=256",
        "-timeout=20",
        "-print_final_stats=1",
        "-use_value_profile=1",
        str(corpus),
        str(seeds),
    ]
    atheris.Setup(arguments, lambda data: target(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
