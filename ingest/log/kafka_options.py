"""How to reach a Kafka cluster. Apart from the rest, so that settings need not import aiokafka."""

import ssl
from dataclasses import dataclass, field
from typing import Any, Literal

from ingest.log import LogError

REQUEST_TIMEOUT_MS = 20_000
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """How to reach a cluster, and what is ours on it.

    `servers`: "host:port,host:port". `prefix` goes before every topic and transactional id, so
    that several pipelines share a cluster. `replication`: of topics made here; None: 3, or the
    number of brokers if that is smaller. `retention_hours`: of topics made here.
    """

    servers: str
    prefix: str = ""
    replication: int | None = None
    retention_hours: float = 24.0
    tls: bool = False
    ca_file: str | None = None
    sasl: Mechanism | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def arguments(self) -> dict[str, Any]:
        """What every aiokafka client is made with. Raises `LogError` for an unusable CA file."""
        security = ("SASL_" if self.sasl else "") + ("SSL" if self.tls else "PLAINTEXT")
        return {
            "bootstrap_servers": self.servers,
            "client_id": "perpflow",
            "request_timeout_ms": REQUEST_TIMEOUT_MS,
            "security_protocol": security,
            "ssl_context": self._tls(),
            "sasl_mechanism": self.sasl or "PLAIN",
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }

    def _tls(self) -> ssl.SSLContext | None:
        if not self.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:  # SSLError is one
            why = error.strerror or error
            raise LogError(f"Kafka {self.servers}: CA file {self.ca_file}: {why}") from error
