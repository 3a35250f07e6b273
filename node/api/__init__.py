"""The local API, by which other processes of the same user call a running node.

HTTP over a Unix socket in the node's home, never TCP. `POST /v1/<operation>` with
a JSON object answers with lines of JSON: any number of `{"progress": ...}`, then
one `{"result": ...}` or `{"error": {"message", "hint", "code"}}`.
`GET /v1/health` answers `{"ok": true, "pid": ...}`.
"""
