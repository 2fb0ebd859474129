"""Random plays against what a wire would do: whatever the actors do, and however late the relay hears of it,

- what arrives is a prefix of what was sent;
- a FIN arrives only where one was sent, and then the bytes are complete;
- who resets without a FIN is seen to reset, by an actor who reads to the end;
- when nobody resets, everything arrives.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plays import FIN, LOOPS, RST, Actor, Stage, perform

STREAM = random.Random(4).randbytes(1 << 20)  # each actor sends from its beginning

ACTOR = st.sampled_from(["client", "server"])
ACTION = st.one_of(
    st.tuples(ACTOR, st.just("send"), st.integers(1, 200_000)),
    st.tuples(ACTOR, st.just("send"), st.integers(1, 100)),
    st.tuples(ACTOR, st.sampled_from(["read", "fin", "rst"]), st.just(0)),
    st.tuples(st.just("relay"), st.just("turns"), st.integers(1, 4)),
)


@dataclass
class Role:
    """An actor and the oracle's record of it."""

    actor: Actor
    sent: int = 0
    got: bytes = b""
    said_fin: bool = False
    said_rst: bool = False
    was_hurt: bool = False  # its kernel told it of a reset
    end: str = field(default="")

    def do(self, verb: str, size: int) -> None:
        if self.said_rst or self.was_hurt or (self.said_fin and verb in ("send", "fin")):
            return
        try:
            if verb == "send":
                self.sent += self.actor.send_some(STREAM[self.sent : self.sent + size])
            elif verb == "read":
                self.got += self.actor.receive_some()
            elif verb == "fin":
                self.actor.fin()
                self.said_fin = True
            elif verb == "rst":
                self.actor.rst()
                self.said_rst = True
        except OSError:
            self.was_hurt = True

    async def listen(self) -> None:
        if not self.said_rst:
            rest, end = await self.actor.receive_all()
            self.got += rest
            self.end = RST if self.was_hurt else end


def judge(source: Role, target: Role) -> None:
    sent = STREAM[: source.sent]
    assert sent.startswith(target.got)
    if target.said_rst:
        return
    if target.end == FIN:
        assert source.said_fin
        assert target.got == sent
    if source.said_rst and not source.said_fin:
        assert target.end == RST
    if not source.said_rst:
        assert (target.got, target.end) == (sent, FIN)


@pytest.mark.parametrize("loop", LOOPS)
@settings(max_examples=150, deadline=None)
@given(actions=st.lists(ACTION, max_size=14), small=st.sampled_from(["", "client", "server", "both"]))
def test_any_play_is_what_a_wire_would_make_of_it(
    loop: str, actions: list[tuple[str, str, int]], small: str
) -> None:
    async def script(stage: Stage) -> None:
        client, server = Role(stage.client), Role(stage.server)
        for who, verb, size in actions:
            if who == "relay":
                for _ in range(size):
                    await asyncio.sleep(0)
            else:
                (client if who == "client" else server).do(verb, size)
        client.do("fin", 0)
        server.do("fin", 0)
        async with asyncio.TaskGroup() as listening:
            listening.create_task(client.listen())
            listening.create_task(server.listen())
        outcome = await stage.end()
        judge(client, server)
        judge(server, client)
        if not (client.said_rst or server.said_rst):
            assert (outcome.state, outcome.bytes_in, outcome.bytes_out) == ("--", client.sent, server.sent)
        elif not (client.said_fin and server.said_fin):
            assert outcome.state in ("CD", "SD")

    perform(script, loop, small=small)
