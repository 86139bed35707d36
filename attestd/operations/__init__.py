"""What operators do: each verb is one transaction that acts and leaves an audit row with the operator's name.

`instance` has devices and whom an instance trusts, `certifying` credentials of whoever is no device, `fleet` the brake
and cohorts, `references` what is good, and `exporting` evidence for others.
"""

from attestd.operations.act import Act
from attestd.operations.instance import Operations

__all__ = ["Act", "Operations"]
