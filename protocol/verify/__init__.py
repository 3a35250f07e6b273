"""The auditor's verifier of exported audit logs and of proofs of single entries.

Shares no code with `protocol.log`, which writes the log. Needs no node, network or
database, only the standard library, PyNaCl, and `keys` for the facility card and its
fingerprint. Formats: docs/protocol-log.md; use: docs/auditing.md.
"""

from protocol.verify.check import verify_bundle
from protocol.verify.evidence import Evidence
from protocol.verify.policy import Policy, PolicyProblem, parse_policy
from protocol.verify.proof import verify_proof
from protocol.verify.verdict import Code, Finding, Verdict, report_lines, to_json

__all__ = [
    "Code",
    "Evidence",
    "Finding",
    "Policy",
    "PolicyProblem",
    "Verdict",
    "parse_policy",
    "report_lines",
    "to_json",
    "verify_bundle",
    "verify_proof",
]
