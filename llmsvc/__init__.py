"""What runs after installation: the command line, the backend process and the proxy process."""

__version__ = "0.1.0"
