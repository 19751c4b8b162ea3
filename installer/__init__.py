"""Installs llmsvc on this host: facts, plan, apply, verify. Knows nothing of HTTP but the last check."""
