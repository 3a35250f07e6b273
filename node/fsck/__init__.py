"""`radmesh check`: whether catalog, store, feeds and log of a home agree.

It shares no code with what it checks, so that a mistake there is not made here again: it
reads files and SQL tables itself, and the log by the auditor's verifier. It changes
nothing, and the node may run meanwhile.
"""
