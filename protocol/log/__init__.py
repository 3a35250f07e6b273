"""The audit log's format, for its writer: entries, tree, notes, checkpoints, proofs.

Normative text: docs/protocol-log.md. The auditor's reader of the same format is
`protocol.verify`, which shares no code with this package.
"""
