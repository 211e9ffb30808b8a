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

import botocore.session
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from publish.store import Store, StoreError

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
    """URLs that S3 serves, with the credentials that the store itself uses.

    botocore says which endpoint and makes the signatures; its `generate_presigned_url`, which does
    both for every URL, takes eight times as long.
    """

    def __init__(self, store: Store, template: str | None) -> None:
        super().__init__(template)
        self._bucket, _, prefix = store.url.removeprefix("s3://").rstrip("/").partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._endpoint = store.endpoint_url
        self._session = botocore.session.get_session()
        self._places: dict[str | None, tuple[str, str]] = {}

    def sign(self, key: str, family: str, seconds: int, base: str) -> str:
        """Raises `StoreError` without credentials."""
        url, region = self._place(self._base(family))
        request = AWSRequest("GET", f"{url}{quote(self._prefix + key)}")
        S3SigV4QueryAuth(self._credentials(), "s3", region, expires=seconds).add_auth(request)
        return str(request.url)

    def _credentials(self) -> ReadOnlyCredentials:
        """As they are now: temporary ones are renewed."""
        found = self._session.get_credentials()
        if found is None:
            raise StoreError(f"s3://{self._bucket}: there are no AWS credentials")
        return found.get_frozen_credentials()

    def _place(self, host: str | None) -> tuple[str, str]:
        """The bucket's URL, ending in "/", and its region; S3 signs the host too."""
        if host not in self._places:
            self._credentials()  # without them a client is of no use either
            region = self._session.get_config_variable("region") or "us-east-1"
            client = self._session.create_client(
                "s3", region_name=region, endpoint_url=host or self._endpoint
            )
            endpoint = client.meta.endpoint_url.rstrip("/")
            scheme, _, name = endpoint.partition("://")
            # Amazon has a subdomain for every bucket; others need not, and TLS has none with a dot.
            if name.startswith("s3.") and ".amazonaws.com" in name and "." not in self._bucket:
                self._places[host] = (f"{scheme}://{self._bucket}.{name}/", region)
            else:
                self._places[host] = (f"{endpoint}/{self._bucket}/", region)
        return self._places[host]
