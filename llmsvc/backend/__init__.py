"""The process inside llama-server@NAME.service: llama_cpp.server behind an adapter for several users."""
