"""Path patterns and rules: what they match, what they refuse to be, and that no path makes them slow."""

from __future__ import annotations

import time

import pytest

from attestd.appraisal.paths import MAX_RULES, PathPattern, PathRule, PathRules, UnusablePattern, Verdict, as_measured

MATCHES = [
    ("/etc/passwd", "/etc/passwd", True),
    ("/etc/passwd", "/etc/passwd2", False),
    ("/etc/passwd", "/etc/passw", False),
    ("/var/log/**", "/var/log/a", True),
    ("/var/log/**", "/var/log/a/b/c", True),
    ("/var/log/**", "/var/log", False),
    ("/var/log/**", "/var/logs/a", False),
    ("/var/log/**", "/var/log/", True),
    ("/var/log/*", "/var/log/a", True),
    ("/var/log/*", "/var/log/a/b", False),
    ("**/*.pyc", "/usr/lib/a.pyc", True),
    ("**/*.pyc", "a.pyc", True),
    ("**/*.pyc", "/usr/lib/a.py", False),
    ("**/*.pyc", "/a.pyc/b", False),
    ("/usr/lib/python3*/**/*.pyc", "/usr/lib/python3.11/a/b/c.pyc", True),
    ("/usr/lib/python3*/**/*.pyc", "/usr/lib/python3.11/c.pyc", True),
    ("/usr/lib/python3*/**/*.pyc", "/usr/lib/python2.7/c.pyc", False),
    ("/usr/lib/modules/*/kernel/**", "/usr/lib/modules/6.1.0-13-amd64/kernel/a.ko", True),
    ("/usr/lib/modules/*/kernel/**", "/usr/lib/modules/6.1.0/x/kernel/a.ko", False),
    ("/a/**/z", "/a/z", True),
    ("/a/**/z", "/a/b/c/z", True),
    ("/a/**/z", "/a/b/c/y", False),
    ("/a/**/z", "/a", False),
    ("memfd:*", "memfd:anything", True),
    ("memfd:*", "memfd:a/b", False),
    ("/tmp/.X*-lock", "/tmp/.X0-lock", True),
    ("/tmp/.X*-lock", "/tmp/.X-lock", True),
    ("/tmp/.X*-lock", "/tmp/.X-loc", False),
    ("/a*b*c", "/aXbYc", True),
    ("/a*b*c", "/abc", True),
    ("/a*b*c", "/acb", False),
    ("/a*b*b", "/ab", False),
    ("/a*ab", "/ab", False),
    ("/opt/two words/*", "/opt/two_words/x", True),
    ("/opt/[a-z]", "/opt/b", False),
    ("/opt/[a-z]", "/opt/[a-z]", True),
    ("/opt/a?", "/opt/ab", False),
    ("/a//b", "/a/b", False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "path", "matches"), MATCHES, ids=str)
def test_what_a_pattern_matches(pattern: str, path: str, matches: bool) -> None:
    assert PathPattern(pattern).matches(path.encode()) is matches


@pytest.mark.parametrize(
    "text", ["", "*", "**", "/**", "/*/*", "**/*", "/a/**/b/**", "/a**", "/**b/c", "x" * 513, "/a\0", "/a" + "*a" * 17]
)
def test_patterns_that_are_refused(text: str) -> None:
    with pytest.raises(UnusablePattern):
        PathPattern(text)


def test_paths_as_the_kernel_writes_them() -> None:
    assert as_measured("/opt/two words") == b"/opt/two_words"
    assert as_measured("/opt/caf\u00e9") == "/opt/caf\u00e9".encode()
    assert as_measured(b"/opt/\xff".decode("utf-8", "surrogateescape")) == b"/opt/\xff"


def rules(*pairs: tuple[str, Verdict]) -> PathRules:
    return PathRules(PathRule(PathPattern(text), verdict) for text, verdict in pairs)


def test_the_first_rule_that_fits_counts() -> None:
    some = rules(
        ("/a/b/x", Verdict.SIGNED), ("/a/b/**", Verdict.IGNORE), ("/a/b/y", Verdict.REFUSE), ("/a/**", Verdict.LISTED),
        ("/a/c", Verdict.REFUSE), ("/d", Verdict.SIGNED), ("/d", Verdict.IGNORE),
    )  # fmt: skip
    wanted = {"/a/b/x": "signed", "/a/b/y": "ignore", "/a/b/z": "ignore", "/a/c": "listed", "/d": "signed"}
    for path, verdict in wanted.items():
        found = some.of(path.encode())
        assert found is not None
        assert found.verdict == verdict
    assert some.of(b"/e") is None
    assert len(some) == len(list(some)) == 7


@pytest.mark.parametrize(
    "path", [b"/var/log/../../bin/sh", b"/var/log/./x", b"/var/log/x/..", b"/var/log/x/.", b"/var/log/" + b"x" * 4096]
)
def test_paths_that_no_kernel_writes_fall_under_no_rule(path: bytes) -> None:
    some = rules(("/var/log/**", Verdict.IGNORE))
    assert some.of(b"/var/log/x") is not None
    assert some.of(path) is None


def test_too_many_rules() -> None:
    rule = PathRule(PathPattern("/a/**"), Verdict.IGNORE)
    assert len(PathRules([rule] * MAX_RULES)) == MAX_RULES
    with pytest.raises(UnusablePattern):
        PathRules([rule] * (MAX_RULES + 1))


def test_no_path_makes_patterns_slow() -> None:
    """The longest path, against as many of the worst patterns as there may be."""
    worst = ["**/" + "a*" * 14 + "b", "/" + "/a" * 100 + "/**/z", "**" + "/*a" * 14, "/" + "a*" * 16, "**/a/a/a"]
    some = PathRules(PathRule(PathPattern(worst[number % 5]), Verdict.IGNORE) for number in range(MAX_RULES))
    for path in (b"/" + b"a" * 4095, b"/a" * 2048, b"/" + b"ab" * 2047, b"/" * 4096):
        begin = time.process_time()
        some.of(path)
        assert time.process_time() - begin < 0.25
