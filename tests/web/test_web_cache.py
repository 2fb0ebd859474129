"""Which files stay, and for how long."""

from scaleup.web.cache import OVERHEAD_BYTES, UNUSED_SECONDS, Cache, Entry, Variant
from scaleup.web.conditions import Version

SIZE = 1000


def entry(fresh_until: float) -> Entry[int]:
    content = bytes(SIZE)
    return Entry(b"", {b"": Variant(Version(b"", 0), b"", b"", b"", SIZE, content)}, 0, fresh_until)


def paths(cache: Cache[int]) -> str:
    return "".join(path for path in "abcd" if cache.stale(path) is not None)


def test_what_was_used_longest_ago_goes_first() -> None:
    cache: Cache[int] = Cache(3 * (SIZE + OVERHEAD_BYTES))
    for path in "abc":
        cache.put(path, entry(fresh_until=1.0), 0.0)
    assert cache.get("a", 0.5) is not None
    cache.put("d", entry(fresh_until=1.0), 0.5)
    assert paths(cache) == "acd"


def test_what_nobody_asks_for_goes_also_when_nothing_else_is_looked_at() -> None:
    cache: Cache[int] = Cache(100_000)
    cache.put("a", entry(fresh_until=1.0), 0.0)
    assert cache.expire(UNUSED_SECONDS)
    assert paths(cache) == "a"
    assert not cache.expire(UNUSED_SECONDS + 1.0)
    assert paths(cache) == ""


def test_what_nobody_asks_for_goes_when_anything_else_is_looked_at() -> None:
    cache: Cache[int] = Cache(100_000)
    cache.put("a", entry(fresh_until=1.0), 0.0)
    cache.put("b", entry(fresh_until=11.0), 10.0)
    later = 1.0 + UNUSED_SECONDS
    cache.put("c", entry(fresh_until=later), later - 0.1)
    assert paths(cache) == "abc"
    cache.put("d", entry(fresh_until=later + 1), later)
    assert paths(cache) == "bcd"
    assert cache.get("c", later) is None  # old, but still there to be compared
