"""A running model server: what its answers take on the link, and what coupling takes of it."""
