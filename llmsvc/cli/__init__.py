"""The llmsvc command: one file a verb group; every command returns data, output.py renders it."""
