"""The model library: catalogue, GGUF headers, downloads and the models.d store."""
