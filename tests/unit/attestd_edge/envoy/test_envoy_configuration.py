"""The shipped envoy.yaml and envoy-http.yaml against Envoy's own protobufs, and what makes them safe.

Envoy reads such a file into envoy.config.bootstrap.v3.Bootstrap, refuses unknown fields, unpacks every `typed_config`
and applies the rules that stand in the protobufs (protoc-gen-validate). The first three are done here as it does them;
of the rules the usual kinds.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import ExtAuthz, ExtAuthzPerRoute
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import CertificateValidationContext
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext, UpstreamTlsContext
from google.protobuf import any_pb2, json_format, symbol_database
from google.protobuf.message import Message
from validate import validate_pb2

from attestd_edge.envoy.checks import BOUNDARY
from attestd_edge.envoy.http_mode import PREFIX
from attestd_edge.hop import CertificateSource
from attestd_edge.settings import Settings, TlsListen, UnixListen

FOLDER = Path(__file__).parents[4] / "deploy" / "envoy"
FILES = ("envoy.yaml", "envoy-http.yaml")


def members(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def typed(tree: Any) -> Iterator[str]:
    """The full names of all messages in `@type`."""
    if isinstance(tree, dict):
        if "@type" in tree:
            yield tree["@type"].rpartition("/")[2]
        for value in tree.values():
            yield from typed(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from typed(value)


def parse(tree: dict[str, Any]) -> Bootstrap:
    for name in typed(tree):
        package = importlib.import_module(name.rpartition(".")[0])
        for module in pkgutil.iter_modules(package.__path__):
            if module.name.endswith("_pb2"):
                importlib.import_module(f"{package.__name__}.{module.name}")
    return json_format.ParseDict(tree, Bootstrap())


def walk(message: Message) -> Iterator[Message]:
    """The message and all in it; what is packed is unpacked."""
    if isinstance(message, any_pb2.Any):
        name = message.TypeName()
        inner = symbol_database.Default().pool.FindMessageTypeByName(name)
        unpacked = symbol_database.message_factory.GetMessageClass(inner)()
        assert message.Unpack(unpacked)
        yield from walk(unpacked)
        return
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for inner in value.values():
                    yield from walk(inner)
        elif isinstance(value, Message):
            yield from walk(value)
        else:
            for inner in value:
                yield from walk(inner)


def broken_rules(message: Message) -> Iterator[str]:
    descriptor = message.DESCRIPTOR
    present = {field.name for field, _ in message.ListFields()}
    for one in descriptor.oneofs:
        if one.GetOptions().Extensions[validate_pb2.required] and message.WhichOneof(one.name) is None:
            yield f"{descriptor.full_name}: one of {one.name} is missing"
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[validate_pb2.rules]
        chosen = field.containing_oneof is None or message.WhichOneof(field.containing_oneof.name) == field.name
        if rules.message.required and chosen and field.name not in present:
            yield f"{descriptor.full_name}.{field.name} is required"
        value = getattr(message, field.name)
        if rules.HasField("string") and chosen and len(value) < rules.string.min_len:
            yield f"{descriptor.full_name}.{field.name} is too short"
        if rules.HasField("repeated") and len(value) < rules.repeated.min_items:
            yield f"{descriptor.full_name}.{field.name} has too few"
        if rules.duration.HasField("gt") and field.name in present and value.ToNanoseconds() <= 0:
            yield f"{descriptor.full_name}.{field.name} is no time"


def one(bootstrap: Message, kind: type[Any]) -> Any:
    (found,) = (message for message in walk(bootstrap) if isinstance(message, kind))
    return found


@pytest.fixture(params=FILES)
def bootstrap(request: pytest.FixtureRequest) -> Bootstrap:
    return parse(members(request.param))


def test_envoys_protobufs_take_it(bootstrap):
    assert [rule for message in walk(bootstrap) for rule in broken_rules(message)] == []
    assert len(bootstrap.static_resources.clusters) == 2


def test_a_field_that_does_not_exist_is_noticed():
    tree = members(FILES[0])
    tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefiks"] = "x"
    with pytest.raises(json_format.ParseError, match="stat_prefiks"):
        parse(tree)


def test_a_field_that_is_missing_is_noticed():
    tree = members(FILES[0])
    del tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["stat_prefix"]
    rules = [rule for message in walk(parse(tree)) for rule in broken_rules(message)]
    assert len(rules) == 1
    assert rules[0].endswith("HttpConnectionManager.stat_prefix is too short")


def test_clusters_that_are_named_are_there(bootstrap):
    there = {cluster.name for cluster in bootstrap.static_resources.clusters}
    filter_ = one(bootstrap, ExtAuthz)
    assert (filter_.grpc_service.envoy_grpc.cluster_name or filter_.http_service.server_uri.cluster) in there
    (host,) = one(bootstrap, HttpConnectionManager).route_config.virtual_hosts
    assert {route.route.cluster for route in host.routes} <= there


def test_what_fails_is_refused(bootstrap):
    filter_ = one(bootstrap, ExtAuthz)
    assert not filter_.failure_mode_allow
    assert filter_.status_on_error.code == 503
    assert not filter_.HasField("filter_enabled")
    timeout = (
        filter_.grpc_service.timeout if filter_.HasField("grpc_service") else filter_.http_service.server_uri.timeout
    )
    assert 0 < timeout.ToSeconds() <= 5


def test_the_edge_is_asked_over_a_unix_socket(bootstrap):
    (edge,) = (cluster for cluster in bootstrap.static_resources.clusters if cluster.name == "attestd_edge")
    address = edge.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address
    assert address.pipe.path.startswith("/run/attestd-edge")


def test_certificates_are_asked_for_and_judged_by_the_edge(bootstrap):
    tls = one(bootstrap, DownstreamTlsContext)
    assert not tls.require_client_certificate.value
    validation = tls.common_tls_context.validation_context
    assert validation.trust_chain_verification == CertificateValidationContext.ACCEPT_UNTRUSTED


def test_the_filter_is_before_the_router_and_nothing_else_is_there(bootstrap):
    manager = one(bootstrap, HttpConnectionManager)
    assert [item.name for item in manager.http_filters] == ["envoy.filters.http.ext_authz", "envoy.filters.http.router"]


def test_a_path_has_one_reading(bootstrap):
    manager = one(bootstrap, HttpConnectionManager)
    assert manager.normalize_path.value
    assert manager.merge_slashes
    assert manager.path_with_escaped_slashes_action == HttpConnectionManager.REJECT_REQUEST


def test_what_was_let_through_ends(bootstrap):
    manager = one(bootstrap, HttpConnectionManager)
    assert 0 < manager.common_http_protocol_options.max_stream_duration.ToSeconds() <= 900
    assert not manager.upgrade_configs


def test_what_only_we_may_say_is_taken_from_clients(bootstrap):
    mutation = one(bootstrap, HeaderMutation)
    names = {f"attestd-{name}" for name in ("identity", "tier", "site", "device", "credential", "boundary", "labels")}
    assert names | {"attestd-request-id", "client-cert", "client-cert-chain", "x-client-cert"} == {
        item.remove for item in mutation.mutations
    }
    manager = one(bootstrap, HttpConnectionManager)
    options = manager.common_http_protocol_options
    assert options.headers_with_underscores_action == options.REJECT_REQUEST
    # A route's own list would come after the filter, and take the edge's word away.
    (host,) = manager.route_config.virtual_hosts
    assert not host.request_headers_to_remove
    assert not any(route.request_headers_to_remove for route in host.routes)


def test_addresses_schemes_and_request_ids_are_envoys_own(bootstrap):
    manager = one(bootstrap, HttpConnectionManager)
    assert manager.use_remote_address.value
    assert manager.HasField("internal_address_config")
    assert not manager.preserve_external_request_id
    assert manager.scheme_header_transformation.scheme_to_overwrite == "https"


def blocks(mark: str) -> list[str]:
    """The page's indented blocks that hold these words."""
    page = (FOLDER.parents[1] / "docs" / "envoy.md").read_text()
    found = [textwrap.dedent(block) for block in re.findall(r"(?:(?:    .*)?\n)+", page) if block.strip()]
    return [block for block in found if mark in block]


class TestThePage:
    def test_what_goes_into_edge_toml(self, tmp_path):
        base = {
            "server": "https://attestd.example.org", "root": "r", "trust_domain": "example.org",
            "state_dir": "s", "key": "k", "certificate": "c",
        }  # fmt: skip
        told = [*blocks("[envoy]"), *blocks("[listen]")]
        assert len(told) == 3
        found = [Settings.read({"edge": base, **tomllib.loads(block)}, base=tmp_path) for block in told]
        assert isinstance(found[0].envoy, UnixListen)
        assert str(found[0].envoy.path) == "/run/attestd-edge-envoy/envoy.sock"
        assert list(found[0].boundaries) == ["field-to-munich"]
        assert isinstance(found[1].envoy, TlsListen)
        assert found[2].certificate_header is CertificateSource.ENVOY

    def test_an_edge_elsewhere(self):
        (block,) = blocks("UpstreamTlsContext")
        tree = members("envoy.yaml")
        tree["static_resources"]["clusters"][0] |= yaml.safe_load(block)
        found = parse(tree)
        assert [rule for message in walk(found) for rule in broken_rules(message)] == []
        tls = one(found, UpstreamTlsContext)
        assert tls.common_tls_context.validation_context.trusted_ca.filename
        assert tls.common_tls_context.validation_context.match_typed_subject_alt_names

    def test_a_route(self):
        (block,) = blocks("typed_per_filter_config")
        (host,) = one(parse(members("envoy.yaml")), HttpConnectionManager).route_config.virtual_hosts
        shown = yaml.safe_load(block)["typed_per_filter_config"]["envoy.filters.http.ext_authz"]
        settings = ExtAuthzPerRoute()
        assert host.routes[0].typed_per_filter_config["envoy.filters.http.ext_authz"].Unpack(settings)
        assert shown["check_settings"]["context_extensions"] == dict(settings.check_settings.context_extensions)


class TestGrpc:
    @pytest.fixture
    def bootstrap(self):
        return parse(members("envoy.yaml"))

    def test_the_certificate_comes_from_the_connection(self, bootstrap):
        filter_ = one(bootstrap, ExtAuthz)
        assert filter_.include_peer_certificate
        assert filter_.encode_raw_headers
        manager = one(bootstrap, HttpConnectionManager)
        assert manager.forward_client_cert_details == HttpConnectionManager.SANITIZE

    def test_every_route_names_its_boundary(self, bootstrap):
        (host,) = one(bootstrap, HttpConnectionManager).route_config.virtual_hosts
        for route in host.routes:
            settings = ExtAuthzPerRoute()
            assert route.typed_per_filter_config["envoy.filters.http.ext_authz"].Unpack(settings)
            assert not settings.disabled
            assert settings.check_settings.context_extensions[BOUNDARY] == "field-to-munich"


class TestHttpMode:
    @pytest.fixture
    def bootstrap(self):
        return parse(members("envoy-http.yaml"))

    def test_the_certificate_is_written_anew(self, bootstrap):
        manager = one(bootstrap, HttpConnectionManager)
        assert manager.forward_client_cert_details == HttpConnectionManager.SANITIZE_SET
        details = manager.set_current_client_cert_details
        assert details.cert
        assert not (details.uri or details.dns or details.subject.value)  # unescaped words of an unverified certificate

    def test_the_path_names_the_boundary(self, bootstrap):
        assert one(bootstrap, ExtAuthz).http_service.path_prefix == f"{PREFIX}field-to-munich"

    def test_what_goes_to_the_edge_and_what_comes_back(self, bootstrap):
        filter_ = one(bootstrap, ExtAuthz)
        sent = {pattern.exact for pattern in filter_.allowed_headers.patterns}
        assert sent == {"dpop", "data-labels", "x-request-id", "x-forwarded-client-cert"}
        (scheme,) = filter_.http_service.authorization_request.headers_to_add
        assert (scheme.key, scheme.value) == ("x-forwarded-proto", "https")
        answer = filter_.http_service.authorization_response
        assert [pattern.prefix for pattern in answer.allowed_upstream_headers.patterns] == ["attestd-"]
        assert not answer.allowed_upstream_headers_to_append.patterns
