// A transfer with unmodified polkadot-api over the new JSON-RPC API alone, untyped: read at the
// best and at the final block, estimate, sign, watch to finality. Prints one JSON object.
//
//   node papi.mjs ws://127.0.0.1:PORT
import { Keyring } from "@polkadot/api";
import { cryptoWaitReady } from "@polkadot/util-crypto";
import { createClient, Enum } from "polkadot-api";
import { getPolkadotSigner } from "polkadot-api/signer";
import { getWsProvider } from "polkadot-api/ws";
import { WebSocket } from "ws";

const PHA = 10n ** 12n;
await cryptoWaitReady();
const client = createClient(getWsProvider(process.argv[2], { websocketClass: WebSocket }));
const api = client.getUnsafeApi();
const keyring = new Keyring({ type: "sr25519", ss58Format: 30 });
const alice = keyring.addFromUri("//Alice");
const bob = keyring.addFromUri("//Bob");
const signer = getPolkadotSigner(alice.publicKey, "Sr25519", (data) => alice.sign(data));
const free = async (who, at) =>
  (await api.query.System.Account.getValue(who.address, { at })).data.free;

const spec = await client.getChainSpecData();
const first = await client.getFinalizedBlock();
const before = {
  final: await free(alice, "finalized"),
  best: await free(alice, "best"),
  bob: await free(bob, "best"),
};
const accounts = await api.query.System.Account.getEntries();
const transfer = api.tx.Balances.transfer_keep_alive({
  dest: Enum("Id", bob.address),
  value: 3n * PHA,
});
const fee = await transfer.getEstimatedFees(alice.address);

const seen = [];
const done = await new Promise((resolve, reject) =>
  transfer.signSubmitAndWatch(signer).subscribe({
    next: (event) => {
      seen.push(event.type);
      if (event.type === "finalized") resolve(event);
    },
    error: reject,
  }),
);
const failed = await api.tx.Balances.transfer_keep_alive({
  dest: Enum("Id", bob.address),
  value: before.best * 2n,
}).signAndSubmit(signer);
const body = await client.getBlockBody(done.block.hash);

console.log(
  JSON.stringify(
    {
      spec,
      first: first.number,
      fee,
      seen,
      before,
      accounts: accounts.length,
      ok: done.ok,
      events: done.events.map(({ type, value }) => `${type}.${value.type}`),
      index: done.block.index,
      extrinsics: body.length,
      received: (await free(bob, done.block.hash)) - before.bob,
      paid: before.best - (await free(alice, done.block.hash)),
      failed: { ok: failed.ok, error: failed.dispatchError },
    },
    (_, value) => (typeof value === "bigint" ? value.toString() : value),
  ),
);
client.destroy();
process.exit(0);
