// What any tool of the field does with a chain, by unmodified @polkadot/api: of the version that
// the folder holds. Prints one JSON object, in the shape that `test_everything.py` reads.
//
//   node everything.mjs ws://127.0.0.1:PORT //DevAccount FOLDER
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [, , url, uri, folder] = process.argv;
const load = createRequire(resolve(folder, "package.json"));
const { ApiPromise, Keyring, WsProvider } = load("@polkadot/api");
const { cryptoWaitReady } = load("@polkadot/util-crypto");
await cryptoWaitReady();

const PHA = 10n ** 12n;
const api = await ApiPromise.create({ provider: new WsProvider(url, 1000), noInitWarn: true });
const ss58Format = api.registry.chainSS58;
const pair = (type, path) => new Keyring({ type, ss58Format }).addFromUri(path);
const payer = pair("sr25519", uri);
const signers = {
  sr25519: payer,
  ed25519: pair("ed25519", `${uri}//ed25519`),
  ecdsa: pair("ecdsa", `${uri}//ecdsa`),
};
const receiver = pair("sr25519", `${uri}//receiver`).address;
const freeAt = async (at, who) => (await at.query.system.account(who)).data.free.toString();
const pay = (who, amount) => api.tx.balances.transferKeepAlive(who, amount);

/** Send, and settle when it is finalized: where it is, its events and its error. */
function send(call, signer, options = {}) {
  return new Promise((settle, reject) => {
    const seen = [];
    call
      .signAndSend(signer, options, ({ status, events, dispatchError, txIndex }) => {
        seen.push(status.type);
        if (status.isFinalized) {
          settle({
            seen,
            block: status.asFinalized.toHex(),
            index: txIndex,
            events: events.map(({ event }) => `${event.section}.${event.method}`),
            error: dispatchError ? nameOf(dispatchError) : null,
          });
        } else if (status.isInvalid || status.isDropped || status.isUsurped) {
          reject(new Error(`the transaction is ${status.type}`));
        }
      })
      .catch(reject);
  });
}

function nameOf(error) {
  if (!error.isModule) return error.toString();
  const { section, name } = api.registry.findMetaError(error.asModule);
  return `${section}.${name}`;
}

const start = await api.rpc.chain.getFinalizedHead();
const heads = [];
const unsubscribeHeads = await api.rpc.chain.subscribeNewHeads((header) =>
  heads.push(header.number.toNumber()),
);
const watched = [];
const unsubscribeStorage = await api.query.system.account(receiver, ({ data }) =>
  watched.push(data.free.toString()),
);

const prefix = api.query.system.account.keyPrefix();
const keys = [];
for (;;) {
  const page = await api.rpc.state.getKeysPaged(prefix, 4, keys.at(-1));
  keys.push(...page.map((key) => key.toHex()));
  if (page.length < 4) break;
}

const balance = await freeAt(api, payer.address);
const fee = (await pay(receiver, 3n * PHA).paymentInfo(payer)).partialFee.toString();
const sent = [];
const first = await send(pay(receiver, 3n * PHA), payer);
sent.push({ scheme: "sr25519", mortal: true, ...first });
const paid = BigInt(balance) - BigInt(await freeAt(api, payer.address));
const batch = await send(
  api.tx.utility.batch([
    pay(signers.ed25519.address, 10n * PHA),
    pay(signers.ecdsa.address, 10n * PHA),
  ]),
  payer,
  { era: 0 },
);
sent.push({ scheme: "sr25519", mortal: false, ...batch });
await Promise.all(
  ["ed25519", "ecdsa"].map(async (scheme) => {
    for (const mortal of [true, false]) {
      const options = mortal ? {} : { era: 0 };
      const done = await send(pay(receiver, PHA), signers[scheme], options);
      sent.push({ scheme, mortal, ...done });
    }
  }),
);
const failed = await send(api.tx.proxy.removeProxy(receiver, "Any", 0), payer);

unsubscribeHeads();
unsubscribeStorage();
console.log(
  JSON.stringify({
    version: api.libraryInfo.replace("@polkadot/api v", ""),
    chain: (await api.rpc.system.chain()).toString(),
    existentialDeposit: api.consts.balances.existentialDeposit.toString(),
    keys,
    heads,
    watched,
    balance,
    fee,
    paid: paid.toString(),
    sent,
    batch,
    failed,
    before: await freeAt(await api.at(start), receiver),
    afterFirst: await freeAt(await api.at(first.block), receiver),
    now: await freeAt(api, receiver),
    missing: {},
  }),
);
await api.disconnect();
