"""Cedar policies: who may cross a boundary, who may have a token. Nothing else in the project imports cedarpy.

The language: docs.cedarpolicy.com. What policies may speak of: schema.cedarschema. A new instance's policy:
default.cedar. What no policy permits is denied; what can't be decided is denied.
"""

from attestd.policy.decisions import Crossing, Decision, decide, may_receive_token
from attestd.policy.entities import Boundary, Look
from attestd.policy.policies import PolicySet, default_policy, edge_tokens_policy, published_schema
from attestd.policy.source import PolicyInvalid

__all__ = [
    "Boundary",
    "Crossing",
    "Decision",
    "Look",
    "PolicyInvalid",
    "PolicySet",
    "decide",
    "default_policy",
    "edge_tokens_policy",
    "may_receive_token",
    "published_schema",
]
