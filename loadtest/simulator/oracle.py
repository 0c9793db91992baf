"""The future for `policies.eviction.oracle.Oracle`: what an eviction policy could come to, for comparison only.

The future is that of a cache without bound under the same rules: there, each request is served by its best state. A
state of text u at a level plays a *role*: its own if the unbounded cache stored it too, else that of the state which
served u there, because that is what it stands in for once the other was evicted. It is worth keeping for the uses of
its role that are still to come.

With values that differ and rules of admission that react, no such rule is optimal, and the optimum is intractable:
the oracle bounds it from below, `study.ceiling` from above.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtest.simulator.replay import MISS, Ground, Replay
from policies.eviction import Key


@dataclass(frozen=True)
class Future(Mapping[Key, Sequence[int]]):
    """What is still to come.

    Attributes:
        texts: for each request (which is also the id of its entry) its text.
        roles: the role of each text at each level.
        uses: the requests that use each role, in order.
    """

    texts: Sequence[int]
    roles: Sequence[Sequence[Key]]
    uses: Mapping[Key, Sequence[int]]

    def __getitem__(self, key: Key) -> Sequence[int]:
        """The requests that use the state's role."""
        entry, level = key
        return self.uses[self.roles[self.texts[entry]][level]]

    def __iter__(self) -> Iterator[Key]:
        """All states there could be that have a future."""
        states = ((entry, level) for entry, text in enumerate(self.texts) for level in range(len(self.roles[text])))
        return (key for key in states if key in self)

    def __len__(self) -> int:
        """How many they are."""
        return sum(1 for _ in self)


def future_of(ground: Ground, free: Replay) -> Future:
    """Read the future off a replay without bound."""
    final = ground.setup.states.form == "final"
    objects = 1 if final else len(free.skips)
    partial = ground.setup.admission in ("partial", "no-repeats") and not final
    judge = -1 if final else ground.setup.matching.judge_bit(free.skips).bit_length() - 1
    texts = ground.workload.texts.tolist()
    roles: dict[int, list[Key]] = {}
    uses: dict[Key, list[int]] = defaultdict(list)
    served = zip(texts, free.levels.tolist(), free.servers.tolist(), strict=True)
    for request, (text, level, server) in enumerate(served):
        if level >= 0:
            read = {0 if final else level} | ({judge} if judge >= 0 and server != text else set())
            for place in read:  # the judging state is read as well
                uses[roles[server][place]].append(request)
        if text in roles:
            continue
        own: list[Key] = [(text, place) for place in range(objects)]
        if level == MISS or server < 0 or ground.setup.admission == "everything":
            roles[text] = own
        else:
            stored = level + 1 if partial else objects
            roles[text] = roles[server][:stored] + own[stored:]
    return Future(texts, [roles[text] for text in range(len(roles))], dict(uses))
