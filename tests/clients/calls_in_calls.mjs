// Calls inside calls, with unmodified @polkadot/api: batches of which an item fails, a multisig of
// two, a proxy. Prints one JSON object.
//
//   node calls_in_calls.mjs ws://127.0.0.1:PORT
import { ApiPromise, Keyring, WsProvider } from "@polkadot/api";
import { createKeyMulti, sortAddresses } from "@polkadot/util-crypto";

const PHA = 10n ** 12n;
const provider = new WsProvider(process.argv[2], 1000);
const api = await ApiPromise.create({ provider, noInitWarn: true });
const keyring = new Keyring({ type: "sr25519", ss58Format: api.registry.chainSS58 });
const [alice, bob, charlie] = ["//Alice", "//Bob", "//Charlie"].map((uri) =>
  keyring.addFromUri(uri),
);
const stranger = keyring.addFromUri("//Stranger");
const free = async (who) => (await api.query.system.account(who)).data.free.toBigInt();
const pay = (amount) => api.tx.balances.transferKeepAlive(stranger.address, amount);
const nameOf = (error) =>
  error?.isModule ? api.registry.findMetaError(error.asModule).name : error?.toString();

/** Send, and settle when it is in a block: its events, and the error that it ended with. */
function send(call, signer) {
  return new Promise((resolve, reject) => {
    call
      .signAndSend(signer, ({ status, events, dispatchError, txIndex }) => {
        if (status.isInBlock) {
          resolve({
            block: status.asInBlock,
            index: txIndex,
            names: events.map(({ event }) => `${event.section}.${event.method}`),
            events: events.map(({ event }) => event),
            error: nameOf(dispatchError),
          });
        } else if (status.isInvalid || status.isDropped) {
          reject(new Error(`the transaction is ${status.type}`));
        }
      })
      .catch(reject);
  });
}

const named = ({ names, error }) => ({ names, error: error ?? null });
const much = 10n ** 9n * PHA;
const batch = await send(api.tx.utility.batch([pay(PHA), pay(much), pay(PHA)]), alice);
const interrupted = batch.events.find((each) => api.events.utility.BatchInterrupted.is(each));
const all = await send(api.tx.utility.batchAll([pay(PHA), pay(much)]), alice);
const force = await send(api.tx.utility.forceBatch([pay(much), pay(PHA)]), alice);

// A multisig of Alice and Bob.
const together = keyring.encodeAddress(createKeyMulti([alice.address, bob.address], 2));
await send(api.tx.balances.transferKeepAlive(together, 10n * PHA), alice);
const call = pay(PHA);
const weight = (await call.paymentInfo(alice)).weight;
const begun = await send(
  api.tx.multisig.asMulti(2, sortAddresses([bob.address], 30), null, call, weight),
  alice,
);
const operation = (await api.query.multisig.multisigs(together, call.method.hash)).unwrap();
const ended = await send(
  api.tx.multisig.asMulti(2, [alice.address], operation.when, call, weight),
  bob,
);

// Charlie acts for Alice, and may not transfer.
await send(api.tx.proxy.addProxy(charlie.address, "NonTransfer", 0), alice);
const proxied = await send(api.tx.proxy.proxy(alice.address, null, pay(PHA)), charlie);
const executed = proxied.events.find((each) => api.events.proxy.ProxyExecuted.is(each));
const [[definition]] = await api.query.proxy.proxies(alice.address);

console.log(
  JSON.stringify({
    batch: named(batch),
    interruptedAt: interrupted.data.index.toNumber(),
    interruptedBy: interrupted.data.error.toString(),
    all: named(all),
    force: named(force),
    begun: named(begun),
    when: operation.when.toJSON(),
    begunAt: (await api.rpc.chain.getHeader(begun.block)).number.toNumber(),
    begunIndex: begun.index,
    ended: named(ended),
    proxied: named(proxied),
    proxyError: nameOf(executed.data.result.asErr),
    proxyType: definition.proxyType.toString(),
    stranger: (await free(stranger.address)).toString(),
    multisig: (await free(together)).toString(),
    multiplier: (await api.query.transactionPayment.nextFeeMultiplier()).toString(),
    errors: Object.keys(api.errors.balances),
  }),
);
await api.disconnect();
