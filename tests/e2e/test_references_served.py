"""Reference manifests and a service over HTTPS: large ones, and what is left of them when it starts again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from attestd.appraisal.manifests import ReferenceManifest
from attestd.protocol.encoding import write_object
from tests.e2e.test_serving import Served, attestd, serve

FILES = 12_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("references") / "instance"
    attestd(folder, "init", "--trust-domain", "example.org")
    running = serve(folder)
    yield running
    running.stop()


def test_a_manifest_of_many_files_and_its_way_back(served: Served, tmp_path: Path) -> None:
    manifest = ReferenceManifest.from_members(
        {
            "name": "bike-4",
            "stage": "monitor",
            "pcrs": {"sha256": {"0": ["11" * 32]}},
            "runtime": {"files": {f"/usr/lib/file-{n}": [f"sha256:{n:064x}"] for n in range(FILES)}},
        }
    )
    file = tmp_path / "bike.json"
    file.write_bytes(manifest.document)
    assert len(manifest.document) > 1024 * 1024
    added = json.loads(attestd(served.folder, "references", "add", str(file), "--json"))
    assert added["digest"] == manifest.digest
    shown = attestd(served.folder, "references", "show", str(added["number"]))
    assert ReferenceManifest.from_toml(shown.encode()).digest == manifest.digest
    promoted = json.loads(attestd(served.folder, "references", "promote", str(added["number"]), "enforce", "--json"))
    attestd(served.folder, "references", "withdraw", str(promoted["number"]), "--reason", "a test")
    assert json.loads(attestd(served.folder, "references", "list", "--json")) == []
    assert len(json.loads(attestd(served.folder, "references", "list", "--all", "--json"))) == 2
    trail = attestd(served.folder, "audit", "list")
    assert all(act in trail for act in ("add-reference", "promote-reference", "withdraw-reference"))


def test_one_that_is_too_large_for_the_service_is_not_sent(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    file.write_bytes(write_object({"name": "x" * (16 * 1024 * 1024)}))
    attestd(served.folder, "references", "add", str(file), "--json", code=1)
