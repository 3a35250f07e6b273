"""Reports from the audit log in the formats of others (docs/reports.md).

`selection` and `records` read the log, `facilities` names the facilities in it, and
`audit_messages` maps each entry to the terms of DICOM PS3.15; the other files write one
format each, or send it. Patients and studies are named if their openings are still here,
and by their commitments otherwise. All is streamed: memory does not grow with the log.
"""
