"""Where NATS is, and as whom one logs in there: said wholly, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from attestd.broker.addresses import BrokerMisconfigured, check_address

CA = Path("ca.pem")


@pytest.mark.parametrize(("server", "ca"), [("tls://nats.example.org:4222", CA), ("nats://127.0.0.1:4222", None)])
def test_with_tls_or_here(server, ca):
    check_address("push", server, ca)


@pytest.mark.parametrize(
    ("server", "ca"),
    [
        ("nats.example.org:4222", None),
        ("https://nats.example.org", CA),
        ("tls://", CA),
        ("tls://nats.example.org/path", CA),
        ("tls://user:secret@nats.example.org", CA),
        ("nats://nats.example.org:4222", None),
        ("tls://nats.example.org:4222", None),
        ("nats://127.0.0.1:4222", CA),
    ],
)
def test_anything_else_is_refused(server, ca):
    with pytest.raises(BrokerMisconfigured, match="push"):
        check_address("push", server, ca)


class TestCredentials:
    @pytest.fixture(autouse=True)
    def client_is_there(self):
        pytest.importorskip("nats", reason="nats-py is not installed")

    def client(self, folder: Path, text: str):
        from attestd.broker.links import Broker

        (folder / "user").write_text(text)
        return Broker("nats://127.0.0.1:4222", None, folder / "user").client()

    @property
    def seed(self) -> str:
        from attestd.broker.nkeys import Kind, write_seed

        return write_seed(Kind.USER, bytes(range(32)))

    def test_a_seed(self, tmp_path):
        assert set(self.client(tmp_path, self.seed + "\n").login) == {"signature_cb", "user", "password"}

    def test_a_creds_file(self, tmp_path):
        """As `nsc` writes it."""
        text = (
            "-----BEGIN NATS USER JWT-----\neyJ0.eyJq.c2ln\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.seed}\n------END USER NKEY SEED------\n"
        )
        login = self.client(tmp_path, text).login
        assert login["user_jwt_cb"]() == b"eyJ0.eyJq.c2ln"
        assert "user" not in login

    @pytest.mark.parametrize("spoil", [lambda seed: "", lambda seed: seed[:-1] + "A", lambda seed: "SA" + seed[2:]])
    def test_what_is_no_users_key(self, tmp_path, spoil):
        with pytest.raises(BrokerMisconfigured) as found:
            self.client(tmp_path, spoil(self.seed))
        assert self.seed[4:20] not in str(found.value)

    def test_a_file_that_is_not_there(self, tmp_path):
        from attestd.broker.links import Broker

        with pytest.raises(BrokerMisconfigured):
            Broker("nats://127.0.0.1:4222", None, tmp_path / "none").client()
