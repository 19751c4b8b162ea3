"""Users and their keys: the domain and its SQL."""
