"""The talk with systemd: notify, journal, socket activation and the manager."""
