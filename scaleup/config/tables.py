"""Lists of tables, [[TIER.NAME]]: each has a name, and leaves to [TIER] what it does not say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, SerializerFunctionWrapHandler, field_validator, model_serializer

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,255}")  # as in HAProxy


class NamedTable(BaseModel):
    """What it does not say is left out when it is written down again, too."""

    name: str

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a name: use only letters, digits and . _ - :")
        return name

    @model_serializer(mode="wrap")
    def _only_what_is_said(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key in self.model_fields_set}

    def said(self) -> dict[str, Any]:
        """Its own values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def distinct(what: str, tables: Iterable[NamedTable]) -> None:
    """Raises ValueError. `what`: as in the file, "[[lb.backend]]"."""
    seen: set[str] = set()
    for table in tables:
        if table.name in seen:
            raise ValueError(f"two {what} are called {table.name!r}: give one of them another name")
        seen.add(table.name)
