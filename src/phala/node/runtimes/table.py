"""Which release answers for a state: the one that its `:code` names."""

from pathlib import Path
from typing import Final, TypeAlias

from phala.errors import Invalid, Refused
from phala.node.chain import View
from phala.node.runtimes.archive import Release, load_release, own_release, save_release, unpack
from phala.node.runtimes.remote import RemoteBuilder, RemoteRuntime, RemoteValidator
from phala.primitives.types import BlockNumber, Hash
from phala.runtime import CODE_KEY, BlockBuilder, Changes, Manifest, Runtime, Validator

AnyRuntime: TypeAlias = Runtime | RemoteRuntime
AnyBuilder: TypeAlias = BlockBuilder | RemoteBuilder
AnyValidator: TypeAlias = Validator | RemoteValidator

HOSTS_MAX: Final = 4  # processes of other releases at once, each some 60 MB
SUFFIX: Final = ".phala"


class OtherRelease(Refused):
    """The blocks after a state are made by a release that this node does not have."""

    def __init__(self, wanted: Manifest, own: Manifest, folder: Path | None) -> None:
        pinned = "" if wanted.sources is None else f", sources 0x{wanted.sources.hex()}"
        where = "the node's folder runtimes/" if folder is None else str(folder)
        super().__init__(
            f"the chain goes on by {wanted.name} of spec version {wanted.spec_version} "
            f"(release 0x{wanted.release.hex()}, metadata 0x{wanted.metadata.hex()}{pinned}), "
            f"this release is of spec version {own.spec_version} "
            f"(metadata 0x{own.metadata.hex()})",
            mend="start the node by that release, or put its archive, which `phala node release "
            f"FILE` writes there, into {where}; nothing is lost meanwhile",
        )
        self.wanted = wanted


class Runtimes:
    """This process's own runtime, and those whose archives lie in a folder."""

    def __init__(self, own: Runtime, folder: Path | None = None) -> None:
        self.own = own
        self._folder = folder  # may not exist: then there are no others
        self._own_codes: set[bytes] = set()  # what stands under `:code` where it is this one
        self._sources: dict[bytes, Hash] = {}  # likewise of others
        self._hosts: dict[Hash | None, RemoteRuntime] = {}  # by sources, the last used last
        self._own_sources: Hash | None = None

    def at(self, view: View, number: BlockNumber) -> AnyRuntime:
        """For questions about a block's state, and for the block after it.

        Raises:
            OtherRelease: it is none of ours.
        """
        return self.of(view.value(CODE_KEY, number))

    def of(self, code: bytes | None) -> AnyRuntime:
        """Raises `OtherRelease`."""
        if code is None:
            raise Invalid("the state has no `:code`", mend="give a chain of this kind")
        if code in self._own_codes:
            return self.own
        sources = self._sources.get(code)
        if sources in self._hosts:
            host = self._hosts[sources] = self._hosts.pop(sources)
            return host
        wanted = Manifest.decode(code)
        if self._is_own(wanted):
            self._own_codes.add(code)
            return self.own
        return self._host(code, wanted)

    def _is_own(self, wanted: Manifest) -> bool:
        if not fulfils(self.own.manifest, wanted):
            return False
        if wanted.sources is None:
            return True
        if self._own_sources is None:
            self._own_sources = own_release(self.own.manifest).sources
        return self._own_sources == wanted.sources

    def _host(self, code: bytes, wanted: Manifest) -> RemoteRuntime:
        release = self._find(wanted)
        assert self._folder is not None
        host = RemoteRuntime(unpack(release, self._folder))
        try:
            found = host.manifest
        except BaseException:
            host.close()
            raise
        if not fulfils(found, wanted):
            host.close()
            raise OtherRelease(wanted, found, self._folder)
        self._sources[code] = release.sources
        self._hosts[release.sources] = host
        while len(self._hosts) > HOSTS_MAX:
            self._hosts.pop(next(iter(self._hosts))).close()  # it starts again when it is asked
        return host

    def _find(self, wanted: Manifest) -> Release:
        paths = () if self._folder is None else sorted(self._folder.glob(f"*{SUFFIX}"))
        for path in paths:
            release = load_release(path)
            if fulfils(release.manifest, wanted) and wanted.sources in (None, release.sources):
                return release
        raise OtherRelease(wanted, self.own.manifest, self._folder)

    def add(self, path: Path) -> Release:
        """Keep another release's archive for the chain. Raises `BadRelease`."""
        release = load_release(path)
        self._keep(release)
        return release

    def before(self, changes: Changes) -> None:
        """Call it before a block is written: where another release follows, this one's archive is
        kept for it, so that what was answered here can be answered after."""
        if self._folder is not None and any(key == CODE_KEY for key, _ in changes):
            self._keep(own_release(self.own.manifest))

    def _keep(self, release: Release) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"{release.sources.hex()}{SUFFIX}"
        if not target.exists():
            save_release(release, target)

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()


def fulfils(found: Manifest, wanted: Manifest) -> bool:
    """Whether a release is the one that is wanted, but for its sources' hash."""
    return (found.name, found.release, found.metadata, found.spec_version) == (
        wanted.name,
        wanted.release,
        wanted.metadata,
        wanted.spec_version,
    )
