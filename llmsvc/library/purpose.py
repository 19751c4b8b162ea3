"""Whether a model file was made for what its settings want of it."""

from __future__ import annotations

from llmsvc.library.gguf import Header
from llmsvc.library.settings import ModelSettings


def check(settings: ModelSettings, header: Header) -> None:
    """Refuses what would load, and then answer with numbers that mean nothing, or with errors alone.

    :raises SettingError: a reranker that is to be something else, or something else that is to be one
    """
    if settings["RERANK"] and not header.can_rank:
        raise settings.error("RERANK", f"{settings.model.name} is no reranker: it has no head that ranks")
    if header.ranks and not settings["RERANK"]:
        raise settings.error(
            "EMBEDDING" if settings["EMBEDDING"] else "RERANK",
            f"{settings.model.name} is a reranker, and needs RERANK=1",
            f"llmsvc model set {settings.name} ENGINE=native RERANK=1 EMBEDDING=",
        )
