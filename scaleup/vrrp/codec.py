"""What one virtual router says and what it believes: version, checksum and authentication in one place. ●

`read` makes the checks of RFC 9568 §7.1 in the order of their price. The first ones cost nothing, so that a
flood of what is not for us costs no digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from scaleup.vrrp import legacy, packet
from scaleup.vrrp.auth import Authenticator, AuthError
from scaleup.vrrp.packet import HOP_LIMIT, Address, Advertisement, Checksum, PacketError

AuthMode = Literal["enforce", "permissive", "receive-only"]
"""For bringing authentication into a running election, node by node, backwards through these: `receive-only`
sends without a trailer, `permissive` sends one, and both believe packets without; what has one must be right.
"""


@dataclass(frozen=True)
class Codec:
    """`addresses`, `interval_cs`: as an advertisement says them. `password`: of VRRPv2. `minimum_ttl`: less than
    255 only for peers behind a router.
    """

    vrid: int
    interval_cs: int
    addresses: tuple[Address, ...]
    version: Literal[2, 3] = 3
    checksum: Checksum = "pseudo-header"
    strict: bool = False
    """Believe only a checksum as we send it ourselves."""
    password: bytes | None = None
    authenticator: Authenticator | None = None
    auth_mode: AuthMode = "enforce"
    minimum_ttl: int = HOP_LIMIT

    def write(self, priority: int, source: Address, destination: Address, now_wall: float) -> bytes:
        """What follows the IP header of an advertisement. `now_wall`: seconds since 1970."""
        adv = Advertisement(self.vrid, priority, self.interval_cs, self.addresses)
        if self.version == legacy.VERSION:
            return legacy.encode(adv, self.password)
        message = packet.encode(adv, source, destination, checksum=self.checksum)
        if self.authenticator is None or self.auth_mode == "receive-only":
            return message
        return self.authenticator.seal(message, source, now_wall)

    def read(
        self, data: bytes, source: Address, destination: Address, hop_limit: int | None, now_wall: float
    ) -> Advertisement:
        """The advertisement for this virtual router. Raises PacketError or AuthError, whatever the bytes."""
        if hop_limit is None or hop_limit < self.minimum_ttl:
            limit = "255" if self.minimum_ttl == HOP_LIMIT else f"at least {self.minimum_ttl}"
            raise PacketError("ttl", f"TTL {hop_limit}, not {limit}: it was routed; see --minimum-ttl")
        if len(data) > 1 and data[0] >> 4 in (legacy.VERSION, packet.VERSION) and data[1] != self.vrid:
            raise PacketError("vrid", f"VRID {data[1]} is not ours; see --vrid")
        if self.version == legacy.VERSION:
            return legacy.decode(data, self.interval_cs / 100, self.password)
        packet.verify_head(data, source.version)
        believed = [self.checksum] if self.strict else get_args(Checksum)
        message = self._authentic(data, source, now_wall)
        return packet.decode(message, source, destination, hop_limit=None, checksums=believed)

    def _authentic(self, data: bytes, source: Address, now_wall: float) -> bytes:
        if self.authenticator is None:
            return data
        try:
            return self.authenticator.open(data, source, now_wall)
        except AuthError as error:
            if error.cause == "missing" and self.auth_mode != "enforce":
                return data
            raise
