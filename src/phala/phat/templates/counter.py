"""A counter that everybody may raise. Deploy it: phala deploy counter.py"""

from phat import Contract, Refused, command, emit, query


class Counter(Contract):
    total: int = 0  # state: kept between calls, encrypted, seen by nobody outside

    @command
    def add(self, n: int) -> int:
        """Raise the counter. Try: phala call counter add --arg n=2"""
        if n < 1:
            raise Refused("n must be at least 1")
        self.total += n
        emit("Added", n=n, by=self.caller)
        return self.total

    @query
    def value(self) -> int:
        """What the counter stands at. Try: phala query counter value"""
        return self.total
