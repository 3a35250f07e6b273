"""Backups: a consistent copy of a home, whose node may run, and how to restore it.

DIR/
  store/                the batches of all backups, by digest; files here never change
  2026-11-29T083000Z/   one backup
    card, config.toml
    node.db             by SQLite's own backup
    audit/              log, checkpoint, evidence.db, and torn tails that were cut off
    keys.sealed         with `--with-keys` only
    backup.json         the record with the digest of each file; written last
"""
