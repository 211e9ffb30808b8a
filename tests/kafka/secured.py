"""A broker that asks who you are: TLS, SASL and access lists, all on one broker.

- The key is keytool's, self-signed for 127.0.0.1 alone; its certificate is the CA.
- SCRAM passwords are written when the storage is formatted (`--add-scram`), before any broker runs;
  PLAIN's stand in the properties.
- `StandardAuthorizer` asks for every listener. Who comes unnamed (PLAINTEXT, the controller) may do
  all; users may do what no access list denies.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from tests.kafka.broker import ApacheKafka

USER, PASSWORD = "collector", "correct-horse"
LISTENERS = {"TLS": "SSL", "SASL": "SASL_PLAINTEXT", "SASL_TLS": "SASL_SSL"}
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
TOPIC, GROUP, TRANSACTIONAL_ID = 2, 3, 5
"""Kinds of resources, as the protocol numbers them."""
ALL, READ, WRITE, CREATE, DESCRIBE, DESCRIBE_CONFIGS = 2, 3, 4, 5, 8, 10
"""Operations."""
_LITERAL, _PREFIXED = 3, 4
_DENY, _ALLOW = 2, 3
_STORE = "storepass"


class SecuredKafka(ApacheKafka):
    """`ca`: the certificate to trust; `other_ca`: one that signed nothing here."""

    def __init__(self, folder: Path) -> None:
        self.ca = _key(folder, "broker")
        self.other_ca = _key(folder, "other")
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        properties = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "true",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": str(folder / "broker.p12"),
            "ssl.keystore.password": _STORE,
        }
        for listener in ("sasl", "sasl_tls"):
            name = f"listener.name.{listener}"
            properties[f"{name}.sasl.enabled.mechanisms"] = ",".join(MECHANISMS)
            properties[f"{name}.plain.sasl.jaas.config"] = f'{plain} user_{USER}="{PASSWORD}";'
            for mechanism in MECHANISMS[1:]:
                properties[f"{name}.{mechanism.lower()}.sasl.jaas.config"] = scram
        passwords = {f"{mechanism} {USER}": PASSWORD for mechanism in MECHANISMS[1:]}
        super().__init__(folder, properties, LISTENERS, passwords)

    async def deny(self, kind: int, name: str, operation: int) -> None:
        """From now on the user may do all but that with that resource."""
        await self._rules([(kind, name, _LITERAL, USER, ALL, _ALLOW)])
        await self._rules([(kind, name, _LITERAL, USER, operation, _DENY)])

    async def allow_only(self, prefix: str, rights: Sequence[tuple[int, str, int]]) -> None:
        """Of all that begins with the prefix, the user may do that: (kind, name, operation)."""
        kinds = (TOPIC, GROUP, TRANSACTIONAL_ID)
        # What somebody has a right to, others need one for.
        await self._rules([(kind, prefix, _PREFIXED, "somebody", ALL, _ALLOW) for kind in kinds])
        await self._rules(
            [(kind, prefix + name, _LITERAL, USER, right, _ALLOW) for kind, name, right in rights]
        )

    async def _rules(self, rules: Sequence[tuple[int, str, int, str, int, int]]) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            for kind, name, pattern, user, operation, permission in rules:
                request = CreateAclsRequest(
                    kind, name, pattern, f"User:{user}", "*", operation, permission
                )
                node = admin._client.get_random_node()
                response = await admin._client.send(node, request)
                assert [error[0] for error in response.creation_responses] == [0], response
        finally:
            await admin.close()


def _key(folder: Path, name: str) -> Path:
    store, certificate = folder / f"{name}.p12", folder / f"{name}.pem"
    common = ["-alias", name, "-keystore", store, "-storetype", "PKCS12", "-storepass", _STORE]
    made = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-dname", f"CN={name}"]
    made += ["-validity", "2", "-ext", "SAN=IP:127.0.0.1", "-ext", "BC:c"]
    for command in (made, ["-exportcert", "-rfc", "-file", certificate]):
        subprocess.run(["keytool", *command, *common], check=True, capture_output=True)
    return certificate
