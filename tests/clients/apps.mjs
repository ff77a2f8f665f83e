// What Polkadot.js Apps asks when it starts (packages/react-api/src/Api.tsx and the pages Explorer
// and Accounts), by unmodified @polkadot/api. Prints one JSON object.
//
//   node apps.mjs ws://127.0.0.1:PORT
import { ApiPromise, Keyring, WsProvider } from "@polkadot/api";
import { cryptoWaitReady } from "@polkadot/util-crypto";

await cryptoWaitReady();
const warnings = [];
for (const level of ["warn", "error"]) {
  console[level] = (...words) => warnings.push(words.map(String).join(" "));
}
const provider = new WsProvider(process.argv[2], 1000);
const api = await ApiPromise.create({ provider });
const keyring = new Keyring({ type: "sr25519", ss58Format: api.registry.chainSS58 });
const alice = keyring.addFromUri("//Alice").address;
const bob = keyring.addFromUri("//Bob").address;
const { chain, system, state, author } = api.rpc;

/** The first values that an observer is given. */
async function first(subscribe, ...args) {
  let unsubscribe;
  const value = await new Promise((settle) => {
    unsubscribe = subscribe(...args, settle);
  });
  (await unsubscribe)();
  return value;
}

// Api.tsx: retrieve(), loadOnReady()
const [properties, name, chainType, nodeName, nodeVersion] = await Promise.all([
  system.properties(),
  system.chain(),
  system.chainType(),
  system.name(),
  system.version(),
]);

// Explorer: the header bar, the last blocks, the pool, the events.
const [best, finalized, bestHash, head, last, issuance, fees] = await Promise.all([
  first(api.derive.chain.bestNumber),
  first(api.derive.chain.bestNumberFinalized),
  chain.getBlockHash(),
  first(api.derive.chain.subscribeNewHeads),
  first(api.derive.chain.bestNumberLag),
  api.query.balances.totalIssuance(),
  first(api.derive.tx.events, await chain.getFinalizedHead()).catch((error) => error.message),
]);
const block = await api.derive.chain.getBlock(bestHash);
const header = await api.derive.chain.getHeader(bestHash);

// Accounts
const [all, votes, account, info, nonce, balances] = await Promise.all([
  first(api.derive.balances.all, alice),
  first(api.derive.balances.votingBalance, alice),
  first(api.derive.accounts.info, alice),
  first(api.derive.accounts.flags, alice),
  system.accountNextIndex(alice),
  first(api.query.system.account.multi, [alice, bob]),
]);

// Node info
const [health, peers, pending, roles, id, methods, sync, addresses] = await Promise.all([
  system.health(),
  system.peers(),
  author.pendingExtrinsics(),
  system.nodeRoles(),
  system.localPeerId(),
  api.rpc.rpc.methods(),
  system.syncState(),
  system.localListenAddresses(),
]);
// Typed queries of fees and of runtime APIs, and a proof.
const call = api.tx.balances.transferAllowDeath(bob, 1);
await call.signAsync(keyring.addFromUri("//Alice"));
const byRpc = await provider.send("payment_queryInfo", [call.toHex()]);
// Its own reading of that answer expects weights as they were before they had two parts.
const typed = await api.rpc.payment.queryInfo(call.toHex()).then(() => true, () => false);
const details = await api.call.transactionPaymentApi.queryFeeDetails(call.toU8a(), call.encodedLength);
const byApi = await api.call.transactionPaymentApi.queryInfo(call.toU8a(), call.encodedLength);
const version = await state.getRuntimeVersion();
const accountKey = api.query.system.account.key(alice);
const [size, hash, pairs, subscribed] = await Promise.all([
  state.getStorageSize(accountKey),
  state.getStorageHash(accountKey),
  state.queryStorageAt([accountKey]),
  first(state.subscribeRuntimeVersion),
]);

console.log(
  JSON.stringify({
    properties: properties.toHuman(),
    name: name.toString(),
    chainType: chainType.toString(),
    node: [nodeName.toString(), nodeVersion.toString()],
    best: best.toNumber(),
    finalized: finalized.toNumber(),
    lag: last.toNumber(),
    head: head.number.toNumber(),
    issuance: issuance.toString(),
    events: Array.isArray(fees.events) ? fees.events.length : fees,
    block: [block.block.header.number.toNumber(), block.extrinsics.length],
    header: header.number.toNumber(),
    alice: [all.freeBalance.toString(), all.availableBalance.toString(), votes.votingBalance.toString()],
    account: account.accountId.toString() === alice,
    flags: Object.values(info).some(Boolean),
    nonce: nonce.toNumber(),
    balances: balances.length,
    health: health.toJSON(),
    peers: peers.length,
    pending: pending.length,
    roles: roles.map(String),
    id: id.toString(),
    methods: methods.methods.length,
    sync: sync.toJSON(),
    addresses: addresses.length,
    fee: [byRpc.partialFee, byApi.partialFee.toString()],
    weight: [byRpc.weight, byApi.weight.toJSON()],
    typed,
    baseFee: details.inclusionFee.unwrap().baseFee.toString(),
    version: version.specName.toString() === subscribed.specName.toString(),
    stored: [size.toNumber(), hash.toHex().length, pairs.length],
    warnings,
  }),
);
await api.disconnect();
