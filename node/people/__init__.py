"""The people of a node: who they are, what they may, and what two of them must do together."""
