"""What `llmsvc db backup` saves and `restore` puts back: what makes this service, but model files."""
