"""Reports from the audit log in the formats of others (docs/reports.md).

`selection` and `records` read the log, `facilities` names who is in it, `audit_messages` says
what each entry means in the terms of DICOM PS3.15; the other files write one format each,
or send it. Patients and studies are named where their openings are still here; otherwise
by the commitment. All is streamed: memory does not grow with the log.
"""
