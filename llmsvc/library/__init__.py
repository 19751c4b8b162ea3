"""Models: the catalogue of known ones, how they are fetched and checked, and the store of installed ones."""
