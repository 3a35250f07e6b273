"""`radmesh check`: whether catalog, store, feeds and log of a home agree.

It shares no code with the parts that it checks, so that it does not repeat their
mistakes: it reads files and SQL tables itself, and the log with the auditor's verifier.
It changes nothing, and the node may run meanwhile.
"""
