"""URLs that let whoever has them read one file, for a time.

On S3 they are presigned (Signature Version 4) and S3 serves them; of a directory the API serves the
files itself (`publish/api/files.py`) at URLs with an HMAC:

    {base}/files/{key}?expires=<Unix seconds>&signature=<hex>

where the signature is HMAC-SHA256(secret, "{key}\\n{expires}").
"""

import hashlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable
from urllib.parse import quote

import fsspec

from publish.store import Store

FILES = "/files/"
_FAMILY = "{family}"


class Signer(ABC):
    """Makes URLs of a store's files. `template`: scheme and host, `{family}` in it replaced."""

    def __init__(self, template: str | None) -> None:
        self._template = template.rstrip("/") if template else None

    @abstractmethod
    def sign(self, key: str, family: str, seconds: int, base: str) -> str:
        """A URL of the file, good for so long; `base`: where the API itself was asked."""

    def _base(self, family: str) -> str | None:
        return self._template.replace(_FAMILY, family) if self._template else None


class LocalSigner(Signer):
    """URLs that the API serves. `secret` is asked each time, `now`: Unix seconds."""

    def __init__(
        self, template: str | None, secret: Callable[[], bytes], now: Callable[[], float]
    ) -> None:
        super().__init__(template)
        self._secret = secret
        self._now = now

    def sign(self, key: str, family: str, seconds: int, base: str) -> str:
        expires = str(int(self._now()) + seconds)
        query = f"expires={expires}&signature={self._signature(key, expires)}"
        return f"{self._base(family) or base}{FILES}{quote(key)}?{query}"

    def allows(self, key: str, expires: str, signature: str) -> bool:
        """Whether this process's secret signed exactly that, and its time is not up."""
        if not hmac.compare_digest(self._signature(key, expires).encode(), signature.encode()):
            return False
        return self._now() < int(expires)

    def _signature(self, key: str, expires: str) -> str:
        # surrogateescape: what is no UTF-8 in a URL is wrong, not an error.
        message = f"{key}\n{expires}".encode(errors="surrogateescape")
        return hmac.new(self._secret(), message, hashlib.sha256).hexdigest()


class S3Signer(Signer):
    """URLs that S3 serves, with the credentials that the store itself uses."""

    def __init__(self, store: Store, template: str | None) -> None:
        super().__init__(template)
        self._bucket = store.url.removeprefix("s3://").rstrip("/")
        self._endpoint = store.endpoint_url
        self._clients: dict[str | None, fsspec.AbstractFileSystem] = {}

    def sign(self, key: str, family: str, seconds: int, base: str) -> str:
        url: str = self._client(self._base(family)).sign(f"{self._bucket}/{key}", seconds)
        return url

    def _client(self, host: str | None) -> fsspec.AbstractFileSystem:
        """S3 signs the host too, so every host has its client."""
        if host not in self._clients:
            config: dict[str, object] = {"signature_version": "s3v4"}
            if host or self._endpoint:
                config["s3"] = {"addressing_style": "path"}
            self._clients[host] = fsspec.filesystem(
                "s3",
                endpoint_url=host or self._endpoint,
                skip_instance_cache=True,
                config_kwargs=config,
            )
        return self._clients[host]
