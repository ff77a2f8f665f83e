"""The function of the benches: workerd serves the same in JavaScript."""

from phat import Contract, command, query


class Sums(Contract):
    warm = True

    @query
    def sums(self, xs: list[int]) -> dict:
        return {"sum": sum(xs), "n": len(xs)}

    @command
    def sums_as_command(self, xs: list[int]) -> dict:
        return {"sum": sum(xs), "n": len(xs)}
