"""vLLM's side of coupled coding: see ``processor`` for the plugin, ``noise`` for what it draws."""
