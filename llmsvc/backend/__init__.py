"""The process inside llama-server@NAME.service: llama_cpp.server behind an adapter that keeps the backend contract."""
