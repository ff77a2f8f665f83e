// What any tool of the field does with a chain, by unmodified polkadot-api: untyped, or with types
// that `papi add` wrote, when a folder that holds them is named. Prints one JSON object, in the
// shape that `test_everything.py` reads.
//
//   node everything_papi.mjs ws://127.0.0.1:PORT //DevAccount [FOLDER]
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Keyring } from "@polkadot/api";
import { cryptoWaitReady } from "@polkadot/util-crypto";
import { createClient, Enum } from "polkadot-api";
import { getPolkadotSigner } from "polkadot-api/signer";
import { getWsProvider } from "polkadot-api/ws";
import { WebSocket } from "ws";

const [, , url, uri, folder] = process.argv;
await cryptoWaitReady();

const PHA = 10n ** 12n;
const client = createClient(getWsProvider(url, { websocketClass: WebSocket }));
const api = folder ? client.getTypedApi((await types()).chain) : client.getUnsafeApi();
const pair = (type, path) => new Keyring({ type, ss58Format: 30 }).addFromUri(path);
const payer = pair("sr25519", uri);
const pairs = {
  sr25519: payer,
  ed25519: pair("ed25519", `${uri}//ed25519`),
  ecdsa: pair("ecdsa", `${uri}//ecdsa`),
};
const names = { sr25519: "Sr25519", ed25519: "Ed25519", ecdsa: "Ecdsa" };
const receiver = pair("sr25519", `${uri}//receiver`).address;
const freeAt = async (who, at) =>
  (await api.query.System.Account.getValue(who, { at })).data.free.toString();
const pay = (who, value) =>
  api.tx.Balances.transfer_keep_alive({ dest: Enum("Id", who), value });

async function types() {
  const path = resolve(folder, ".papi/descriptors/dist/index.js");
  return import(pathToFileURL(path).href);
}

/** Send, and settle when it is finalized: where it is, its events and its error. */
function send(call, scheme, options) {
  const keys = pairs[scheme];
  const signer = getPolkadotSigner(keys.addressRaw, names[scheme], (data) => keys.sign(data));
  return new Promise((settle, reject) => {
    const seen = [];
    call.signSubmitAndWatch(signer, options).subscribe({
      next: (event) => {
        seen.push(event.type);
        if (event.type === "finalized") {
          settle({
            seen,
            block: event.block.hash,
            index: event.block.index,
            events: event.events.map(({ type, value }) => `${type}.${value.type}`),
            error: event.ok ? null : nameOf(event.dispatchError),
          });
        }
      },
      error: reject,
    });
  });
}

function nameOf({ type, value }) {
  return type === "Module" ? `${value.type}.${value.value.type}` : `${type}.${value?.type}`;
}

const start = (await client.getFinalizedBlock()).hash;
const heads = [];
const blocks = client.bestBlocks$.subscribe(([best]) => heads.push(best.number));
const watched = [];
const storage = api.query.System.Account.watchValue(receiver, { at: "best" }).subscribe(
  (found) => watched.push((found.value ?? found).data.free.toString()),
);

const keys = (await api.query.System.Account.getEntries()).map(({ keyArgs }) => keyArgs[0]);
const balance = await freeAt(payer.address, "best");
const fee = await pay(receiver, 3n * PHA).getEstimatedFees(payer.address);
const mortality = (mortal) => ({ mortality: mortal ? { mortal, period: 64 } : { mortal } });
const sent = [];
const first = await send(pay(receiver, 3n * PHA), "sr25519", mortality(true));
sent.push({ scheme: "sr25519", mortal: true, ...first });
const paid = BigInt(balance) - BigInt(await freeAt(payer.address, first.block));
const batch = await send(
  api.tx.Utility.batch({
    calls: ["ed25519", "ecdsa"].map(
      (scheme) => pay(pairs[scheme].address, 10n * PHA).decodedCall,
    ),
  }),
  "sr25519",
  mortality(false),
);
sent.push({ scheme: "sr25519", mortal: false, ...batch });
await Promise.all(
  ["ed25519", "ecdsa"].map(async (scheme) => {
    for (const mortal of [true, false]) {
      const done = await send(pay(receiver, PHA), scheme, mortality(mortal));
      sent.push({ scheme, mortal, ...done });
    }
  }),
);
const failed = await send(
  api.tx.Proxy.remove_proxy({
    delegate: Enum("Id", receiver),
    proxy_type: Enum("Any"),
    delay: 0,
  }),
  "sr25519",
  mortality(true),
);

blocks.unsubscribe();
storage.unsubscribe();
console.log(
  JSON.stringify(
    {
      version: JSON.parse(readFileSync("node_modules/polkadot-api/package.json")).version,
      chain: (await client.getChainSpecData()).name,
      existentialDeposit: await api.constants.Balances.ExistentialDeposit(),
      keys,
      heads,
      watched,
      balance,
      fee,
      paid,
      sent,
      batch,
      failed,
      before: await freeAt(receiver, start).catch((error) => error.name),
      afterFirst: await freeAt(receiver, first.block),
      now: await freeAt(receiver, "best"),
      missing: {},
    },
    (_, value) => (typeof value === "bigint" ? value.toString() : value),
  ),
);
client.destroy();
process.exit(0);
